#include "models/passes.hpp"

#include "models/names.hpp"

namespace pipemoe {
namespace {

constexpr Names<MemoryPass, 9> kNames{{
    {MemoryPass::Gate, "gate"},
    {MemoryPass::Permutation, "permutation"},
    {MemoryPass::Activation, "activation"},
    {MemoryPass::GateBackward, "gate_backward"},
    {MemoryPass::Permute, "permute"},
    {MemoryPass::PermuteBackward, "permute_backward"},
    {MemoryPass::Unpermute, "unpermute"},
    {MemoryPass::UnpermuteBackward, "unpermute_backward"},
    {MemoryPass::ActivationBackward, "activation_backward"},
}};

}  // namespace

std::string to_string(MemoryPass pass) { return name_of(kNames, pass); }
MemoryPass memory_pass_from(const std::string& name) { return value_of(kNames, name); }

MemoryPass general_pass(MemoryPass pass) {
  switch (pass) {
    case MemoryPass::Gate:
    case MemoryPass::GateBackward:
      return MemoryPass::Gate;
    case MemoryPass::Activation:
    case MemoryPass::ActivationBackward:
      return MemoryPass::Activation;
    case MemoryPass::Permutation:
    case MemoryPass::Permute:
    case MemoryPass::PermuteBackward:
    case MemoryPass::Unpermute:
    case MemoryPass::UnpermuteBackward:
      return MemoryPass::Permutation;
  }
  throw std::logic_error("pipemoe bug: unknown memory pass");
}

}  // namespace pipemoe
