# Products of our own for onnxruntime (docs/kernels.md): `make kernels` where a C++ compiler is, for this machine or, with
# KERNEL_CXX=aarch64-linux-gnu-g++, for another. Without a compiler the stock operators serve.

VENV ?= .venv
KERNEL_CXX ?= g++
KERNELS := appliance/engine/kernels
KERNEL_BUILD ?= $(KERNELS)/build
KERNEL_LIBRARY := $(KERNEL_BUILD)/liblantern_kernels.so
KERNEL_FLAGS ?=
KERNEL_TESTS := tests/engine/kernels

# -ffp-contract=off: each rounding stands in the source. The compiler's early scheduling runs out of vector registers on Arm.
kernel_flags := -std=c++17 -O2 -ffp-contract=off -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -Wall -Wextra
kernel_objects := library.o operator.o gather.o gated_unit.o causal_conv.o attention_operator.o norm_operator.o
product_objects := pack.o portable.o families.o tiles.o lanes_portable.o
kernel_machine := $(shell $(KERNEL_CXX) -dumpmachine 2>/dev/null)
ifneq (,$(findstring aarch64,$(kernel_machine)))
product_objects += arm_quantize.o lanes_neon.o neon.o dotprod.o i8mm.o
kernel_flags += -fno-schedule-insns -frename-registers
endif
ifneq (,$(findstring x86_64,$(kernel_machine)))
product_objects += x86_quantize.o lanes_avx2.o lanes_avx512.o avx2.o avxvnni.o avx512vnni.o
endif

# Codes of 5 and 6 bits become bytes there, for many rows of activations.
flags_of_tiles := -O3
flags_of_dotprod := -march=armv8.2-a+dotprod
flags_of_i8mm := -march=armv8.2-a+dotprod+i8mm
flags_of_x86_quantize := -mavx2 -mfma
flags_of_avx2 := -mavx2 -mfma
flags_of_lanes_avx2 := -mavx2 -mfma
flags_of_lanes_avx512 := -mavx2 -mfma -mavx512f -Wno-uninitialized -Wno-maybe-uninitialized
flags_of_avxvnni := -mavx2 -mfma -mavxvnni
# gcc 12 takes the undefined operands of its own AVX-512 intrinsics for mistakes.
flags_of_avx512vnni := -mavx2 -mfma -mavx512f -mavx512bw -mavx512vnni -Wno-uninitialized -Wno-maybe-uninitialized
flags_of_operator = -isystem $$(cat $(KERNEL_BUILD)/header)
flags_of_gather = $(flags_of_operator)
flags_of_gated_unit = $(flags_of_operator)
flags_of_causal_conv = $(flags_of_operator)
flags_of_attention_operator = $(flags_of_operator)
flags_of_norm_operator = $(flags_of_operator)

.PHONY: kernels kernel-figures

kernels:
	@if ! command -v $(KERNEL_CXX) >/dev/null; then \
		echo "No $(KERNEL_CXX): no products of our own, the stock operators serve"; \
	elif ! $(KERNELS)/find_header.sh $(KERNEL_BUILD); then \
		echo "No onnxruntime_c_api.h: no products of our own, the stock operators serve"; \
	else $(MAKE) -f kernels.mk --no-print-directory $(KERNEL_LIBRARY).sha256; fi

# The tables of docs/kernels.md: instructions of the Arm families under an emulator, and times on this machine.
kernel-figures:
	$(VENV)/bin/python -m tests.engine.kernels.figures arm
	$(VENV)/bin/python -m tests.engine.kernels.figures here
	$(VENV)/bin/python -m tests.engine.kernels.engine_figures

$(KERNEL_LIBRARY): $(addprefix $(KERNEL_BUILD)/,$(kernel_objects) $(product_objects))
	$(KERNEL_CXX) -shared $(KERNEL_FLAGS) -o $@ $^ -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,--no-undefined -Wl,-z,defs,-z,relro,-z,now

# The engine loads the library only if it has this hash.
$(KERNEL_LIBRARY).sha256: $(KERNEL_LIBRARY)
	cd $(@D) && sha256sum $(<F) >$(@F)

$(KERNEL_BUILD)/%.o: $(KERNELS)/sources/%.cpp $(wildcard $(KERNELS)/sources/*.h) kernels.mk
	@mkdir -p $(@D)
	$(KERNEL_CXX) $(kernel_flags) $(flags_of_$*) $(KERNEL_FLAGS) -c $< -o $@

$(KERNEL_BUILD)/programs/%.o: $(KERNEL_TESTS)/%.cpp $(wildcard $(KERNEL_TESTS)/*.h $(KERNELS)/sources/*.h) kernels.mk
	@mkdir -p $(@D)
	$(KERNEL_CXX) -std=c++17 -O2 -ffp-contract=off -Wall -Wextra -I$(KERNELS)/sources $(KERNEL_FLAGS) -c $< -o $@

# The programs of the tests: static, so that they also run under an emulator.
$(KERNEL_BUILD)/equality $(KERNEL_BUILD)/measure $(KERNEL_BUILD)/float_bits: $(KERNEL_BUILD)/%: $(addprefix $(KERNEL_BUILD)/,programs/%.o \
		programs/cases.o programs/reference.o $(product_objects))
	$(KERNEL_CXX) $(KERNEL_STATIC) $(KERNEL_FLAGS) -o $@ $^

KERNEL_STATIC ?= -static

# A plugin of the emulator on this machine, also where the programs are another's.
$(KERNEL_BUILD)/count.so: $(KERNEL_TESTS)/count.c
	@mkdir -p $(@D)
	$(CC) -O2 -shared -fPIC -o $@ $<
