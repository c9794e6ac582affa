// llama.cpp with one thread, marked for count.c around the second reading of NEW tokens at once, after PAST ones.
//
//   llama_count MODEL PAST NEW
//
// A token that counts comes one further than the first one; `tests.arm.decoder count` does the same for Lantern.

#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

namespace {

constexpr int kMark = 0x4d41524b;

void read(llama_context* context, std::vector<llama_token>& tokens) {
  if (llama_decode(context, llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size())))) std::abort();
}

std::vector<llama_token> some_tokens(int count) {
  std::vector<llama_token> tokens(count);
  for (int i = 0; i < count; i++) tokens[i] = 1 + i * 7919 % 40000;
  return tokens;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "llama_count MODEL PAST NEW\n"), 2;
  const int past = std::atoi(argv[2]), count = std::atoi(argv[3]);
  ggml_backend_load_all();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return std::fprintf(stderr, "%s cannot be loaded\n", argv[1]), 1;
  llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = 1024;
  parameters.n_threads = parameters.n_threads_batch = 1;
  llama_context* context = llama_init_from_model(model, parameters);
  if (!context) return std::fprintf(stderr, "no context\n"), 1;
  std::vector<llama_token> before = some_tokens(past), tokens = some_tokens(count);
  if (past) read(context, before);
  read(context, tokens);  // builds the graph and reserves memory
  if (!past) llama_memory_clear(llama_get_memory(context), true);
  prctl(kMark, 0);
  read(context, tokens);
  prctl(kMark, 1);
}
