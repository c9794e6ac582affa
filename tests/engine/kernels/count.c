/* A plugin of qemu-user (plugin API 1, that of QEMU 7.2 to 8): the instructions and the memory of a guest between two marks.
 *
 * The guest marks with prctl(0x4d41524b, ID), which the kernel refuses and which does nothing else. At a mark with ID > 0 a
 * line goes to the file of the option out=FILE, else to standard error:
 *
 *   INSTRUCTIONS instructions, BYTES loaded, BYTES stored, LINES lines, mark ID
 *
 * counted since the mark before. Memory is counted with the option memory=on alone, since it takes a call for each access;
 * a line is one of 64 bytes from which something was loaded, counted once. One guest thread at a time.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kMark = 0x4d41524b, kPrctl = 167 /* on arm64 */, kAddToCounter = 0, kNoRegisters = 0, kReadsAndWrites = 3 };

/* The declarations of qemu-plugin.h that are used; Debian's package has no header. */
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_callback)(plugin_id, struct qemu_plugin_tb *);
typedef void (*memory_callback)(unsigned, uint32_t, uint64_t, void *);
typedef void (*syscall_callback)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated_callback);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, memory_callback, int, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, syscall_callback);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern unsigned qemu_plugin_mem_size_shift(uint32_t);
extern bool qemu_plugin_mem_is_store(uint32_t);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* A bit for each line, in pages of 2 MiB of a guest's 48 bits of addresses. */
enum { kLineBits = 6, kPageBits = 21, kPages = 1 << (48 - kPageBits), kPageBytes = 1 << (kPageBits - kLineBits - 3) };

static uint64_t instructions, at_last_mark, loaded, stored, lines;
static uint8_t **pages, **used_pages;
static size_t num_used_pages;
static bool with_memory, is_counting;
static FILE *out;

static void accessed(unsigned cpu, uint32_t info, uint64_t address, void *data)
{
    (void)cpu, (void)data;
    if (!is_counting) return;
    const uint64_t size = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
    if (qemu_plugin_mem_is_store(info)) {
        stored += size;
        return;
    }
    loaded += size;
    for (uint64_t line = address >> kLineBits; line <= (address + size - 1) >> kLineBits; line++) {
        uint8_t **page = &pages[line >> (kPageBits - kLineBits) & (kPages - 1)];
        if (!*page) used_pages[num_used_pages++] = *page = calloc(kPageBytes, 1);
        uint8_t *byte = &(*page)[line >> 3 & (kPageBytes - 1)];
        lines += !(*byte >> (line & 7) & 1);
        *byte |= 1 << (line & 7);
    }
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    const size_t size = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_inline(block, kAddToCounter, &instructions, size);
    for (size_t i = 0; with_memory && i < size; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(block, i), accessed, kNoRegisters, kReadsAndWrites, NULL);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
                   uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != kPrctl || a1 != kMark) return;
    if (a2 > 0) {
        fprintf(out, "%" PRIu64 " instructions, %" PRIu64 " loaded, %" PRIu64 " stored, %" PRIu64 " lines, mark %" PRIu64 "\n",
                instructions - at_last_mark, loaded, stored, lines, a2);
        fflush(out);
    }
    for (size_t i = 0; i < num_used_pages; i++) memset(used_pages[i], 0, kPageBytes);
    at_last_mark = instructions;
    loaded = stored = lines = 0;
    is_counting = a2 == 0;
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    out = stderr;
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "memory=on")) with_memory = true;
        if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
    }
    if (!out) return 1;
    if (with_memory) {
        pages = calloc(kPages, sizeof *pages);
        used_pages = calloc(kPages, sizeof *used_pages);
        if (!pages || !used_pages) return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
