#include "models/contention.hpp"

namespace pipemoe {

const Slowdowns& Contention::of(const Task& task) const {
  const Products* products = products_of(task.work);
  if (products == nullptr) {
    return task.key.pass == Pass::Forward ? general.forward : general.gradients;
  }
  if (products->shapes.size() >= 2) {  // experts
    const ExpertSizes sizes = products->expert_sizes();
    for (const ExpertContention& one : experts) {
      if (one.sizes == sizes) return one.slowdowns.of(products->kind);
    }
  }
  return general.of(products->kind);
}

}  // namespace pipemoe
