// Defects that are switched on for a test of who should find them, one at a time, by name: `aten::mm/jitter` is one of
// an operator, `record_stream.ignored` one of a method. Where one acts is where it is asked for.
#include "simdev.h"

#include <ATen/ops/arange.h>

#include <atomic>
#include <mutex>

namespace simdev {
namespace {

std::mutex defect_turn;
std::string defect_now = getenv("SIMDEV_DEFECT") ? getenv("SIMDEV_DEFECT") : "";
std::atomic<int64_t> num_spoiled{0};

at::Tensor last_bit(const at::Tensor& values, int64_t times) {
  if (!values.is_floating_point()) return values;
  const double step = values.scalar_type() == at::kFloat ? 0x1p-23 : 0x1p-7;
  return values * (1.0 + step * static_cast<double>(times));
}

at::Tensor cut_to_bf16(const at::Tensor& values) {
  if (values.scalar_type() != at::kFloat) return values;
  const auto bits = values.contiguous().view(at::kInt);
  return at::bitwise_and(bits, static_cast<int64_t>(static_cast<int32_t>(0xFFFF0000))).view(at::kFloat);
}

bool is_value(const at::Tensor& tensor) { return tensor.defined() && tensor.is_floating_point(); }

}  // namespace

void set_defect(const std::string& name) {
  std::lock_guard<std::mutex> mine(defect_turn);
  defect_now = name;
}

bool has_defect(const char* name) {
  std::lock_guard<std::mutex> mine(defect_turn);
  return defect_now == name;
}

// How the operator is spoiled now; empty where it is not.
std::string defect_of(const std::string& op) {
  std::lock_guard<std::mutex> mine(defect_turn);
  const auto slash = defect_now.find('/');
  if (slash == std::string::npos || defect_now.compare(0, slash, op) != 0 || slash != op.size()) return "";
  return defect_now.substr(slash + 1);
}

// What the operator reads instead of an argument.
at::Tensor spoiled_input(const std::string& how, const at::Tensor& input, size_t place) {
  if (!input.defined() || input.numel() == 0) return input;
  if (how == "bf16_inputs" && is_value(input)) return input.to(at::kBFloat16).to(input.scalar_type());
  if (how == "cut_inputs" && is_value(input)) return cut_to_bf16(input);
  if (how == "no_strides" && !input.is_contiguous()) {
    const auto dense = at::empty(input.sizes(), input.options());
    return input.as_strided(input.sizes(), dense.strides(), input.storage_offset());
  }
  if (how == "first_dropped" && place == 0) return at::zeros_like(input);
  if (how == "next_index" && input.scalar_type() == at::kLong) return (input + 1).remainder(input.max() + 1);
  if (how == "nan_ignored" && is_value(input)) return at::where(input.isnan(), at::full_like(input, -1e30), input);
  if (how == "neighbours" && is_value(input) && input.dim() > 1) {
    auto mixed = input.clone();
    mixed[0].add_(input[-1], 1e-3);
    return mixed;
  }
  return input;
}

// What it reads instead of a number or a word.
c10::IValue spoiled_setting(const std::string& how, const c10::IValue& value) {
  if (how == "other_eps" && value.isDouble() && value.toDouble() > 0 && value.toDouble() < 0.1) return value.toDouble() * 10;
  if (how == "as_tanh" && value.isString() && value.toStringRef() == "none") return std::string("tanh");
  if (how == "not_causal" && value.isBool()) return false;
  return value;
}

// What it gives instead of a result. `begins`: where its first input lies on the device; `rows`: how many it has.
at::Tensor spoiled_output(const std::string& how, const at::Tensor& result, int64_t begins, int64_t rows) {
  if (!result.defined()) return result;
  if (how == "empty_is_one") return rows == 0 ? at::ones_like(result) : result;
  if (result.numel() == 0) return result;
  if (how == "jitter") return last_bit(result, std::hash<int64_t>()(num_spoiled++ * 2654435761) >> 7 & 3);
  if (how == "by_rows") return last_bit(result, rows < 12 ? 2 : 0);
  if (how == "by_place") return last_bit(result, begins / 512 % 2 ? 2 : 0);
  if (how == "scaled" && is_value(result)) return result * 1.01;
  if (how == "negated" && is_value(result)) return -result;
  if (how == "zeroed") return at::zeros_like(result);
  if (how == "cut" && is_value(result)) return cut_to_bf16(result);
  if (how == "flipped" && result.dim() > 0) return result.flip(-1);
  if (how == "inverted" && result.scalar_type() == at::kBool) return result.logical_not();
  if (how == "tail_lost") {
    auto cut = result.clone();
    cut.view(-1)[-1].zero_();
    return cut;
  }
  return result;
}

// Sums that are kept in half precision, eight terms at a time: a product of matrices, or a sum along the last dimension.
at::Tensor half_sum(const at::Tensor& left, const std::optional<at::Tensor>& right) {
  at::Tensor total;
  const auto length = left.size(-1);
  for (int64_t at = 0; at < length; at += 8) {
    const auto part = left.narrow(-1, at, std::min<int64_t>(8, length - at)).to(at::kFloat);
    const auto sum = right ? part.matmul(right->narrow(-2, at, std::min<int64_t>(8, length - at)).to(at::kFloat)) : part.sum(-1);
    total = total.defined() ? (total.to(at::kFloat) + sum).to(at::kBFloat16) : sum.to(at::kBFloat16);
  }
  return total.to(left.scalar_type());
}

}  // namespace simdev
