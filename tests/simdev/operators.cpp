// Operators: every one of the processor's, on the device's memory, behind the rules of a device.
#include "simdev.h"

#include <ATen/EmptyTensor.h>
#include <ATen/SDPBackend.h>
#include <ATen/autocast_mode.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>
#include <ATen/Context.h>
#include <torch/library.h>

#include <atomic>
#include <map>
#include <mutex>
#include <optional>

namespace simdev {

at::Generator& generator_of(c10::DeviceIndex index);
at::Generator draw(at::Generator generator, int64_t numel);

namespace {

std::mutex counts_turn;
std::map<std::string, int64_t> counts;

}  // namespace

void count(const std::string& what) {
  std::lock_guard<std::mutex> mine(counts_turn);
  counts[what]++;
}

std::map<std::string, int64_t> all_counts() {
  std::lock_guard<std::mutex> mine(counts_turn);
  return counts;
}

void forget_counts() {
  std::lock_guard<std::mutex> mine(counts_turn);
  counts.clear();
}

namespace {

at::Tensor same_memory(const at::Tensor& tensor, c10::DataPtr data) {
  c10::Storage same(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), std::move(data), nullptr, false);
  auto found = at::detail::make_tensor<c10::TensorImpl>(std::move(same), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  auto* form = found.unsafeGetTensorImpl();
  form->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  form->set_storage_offset(tensor.storage_offset());
  if (tensor.is_conj()) form->_set_conj(true);
  if (tensor.is_neg()) form->_set_neg(true);
  return found;
}

// As on_host, for work that a stream does later: like a device it does not keep the memory from being freed.
at::Tensor on_host_later(const at::Tensor& tensor) {
  void* begins = host_address(tensor.storage().mutable_data());
  return same_memory(tensor, {begins, c10::Device(c10::kCPU)});
}

}  // namespace

// The same memory as a tensor of the processor.
at::Tensor on_host(const at::Tensor& tensor) {
  void* begins = host_address(tensor.storage().mutable_data());
  auto* kept = new c10::Storage(tensor.storage());
  auto release = [](void* held) { delete static_cast<c10::Storage*>(held); };
  return same_memory(tensor, {begins, kept, release, c10::Device(c10::kCPU)});
}

at::Tensor empty_on_device(at::IntArrayRef sizes, at::ScalarType type, c10::Device device) {
  const c10::DeviceGuard there(device);
  return at::detail::empty_generic(sizes, allocator(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type, {});
}

namespace {


c10::Device chosen(std::optional<c10::Device> device) {
  return {DEVICE, device && device->has_index() ? device->index() : current_device()};
}

at::Tensor empty_strided_on_device(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type, c10::Device device) {
  const c10::DeviceGuard there(device);
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(sizes, strides, allocator(), keys, type);
}

// A result in memory of the device, which it reaches when the stream gets there.
at::Tensor to_device(const at::Tensor& result, c10::Device device) {
  at::Tensor made = result.is_non_overlapping_and_dense()
                        ? empty_strided_on_device(result.sizes(), result.strides(), result.scalar_type(), device)
                        : empty_on_device(result.sizes(), result.scalar_type(), device);
  const at::Tensor place = on_host_later(made);
  enqueue(current_stream(device.index()), [place, result] { place.copy_(result); });
  return made;
}

// Products, whose inputs a vendor's matrix units may round.
const std::set<std::string> PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_grouped_mm", "aten::linear",
                                        "aten::addmm_", "aten::addbmm", "aten::matmul"};
// What takes tensors of the host beside those of the device, as CUDA does.
const std::set<std::string> TAKE_HOST = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_",
                                         "aten::_unsafe_index", "aten::set_", "aten::masked_scatter_"};

// TF32: ten bits of the mantissa.
at::Tensor short_mantissa(const at::Tensor& values, uint32_t kept = 0xFFFFE000) {
  if (values.scalar_type() != at::kFloat) return values;
  const auto bits = values.contiguous().view(at::kInt);
  return at::bitwise_and(bits, static_cast<int64_t>(static_cast<int32_t>(kept))).view(at::kFloat);
}

// One call of an operator, turned into the processor's.
class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack* stack) : op_(op), stack_(stack), schema_(op.schema()) {
    name_ = schema_.name();
    full_ = schema_.overload_name().empty() ? name_ : name_ + "." + schema_.overload_name();
    first_ = stack->size() - schema_.arguments().size();
  }

  void run_it() {
    count("operators");
    count(full_);
    const auto& missing = settings().missing;
    TORCH_CHECK_NOT_IMPLEMENTED(!missing.count(name_) && !missing.count(full_), settings().vendor, ": no operator ", full_);
    const auto& by_host = settings().by_host;
    if (by_host.count(name_) || by_host.count(full_)) {
      count("by host");
      TORCH_WARN(settings().vendor, ": ", full_, " has no kernel of the device and runs on the host");
      at::native::cpu_fallback(op_, stack_);
      return;
    }
    if (settings().unordered.count(name_)) at::globalContext().alertNotDeterministic(name_);
    fail_if_due();
    look_at_places();
    const c10::DeviceGuard there(device_);
    const auto stream = current_stream(device_.index());
    run(stream);  // what it reads was given to the stream before
    defect_ = defect_of(full_);
    if (defect_.empty()) defect_ = defect_of(name_);
    for (size_t i = 0; i < schema_.arguments().size(); i++) take(i);
    compute();
    const size_t from = stack_->size() - schema_.returns().size();
    if (settings().minds_layout) mind_layout((*stack_)[from]);
    for (const auto& input : inputs_) land(input, stream);
    for (size_t i = 0; i < schema_.returns().size(); i++) give((*stack_)[from + i]);
  }

 private:
  struct Input {
    at::Tensor device, host;
    bool is_written;
  };

  // As after an illegal access: the device is of no use any more.
  void fail_if_due() {
    static std::atomic<int64_t> calls{0};
    const auto& due = settings().fails_at;
    const auto colon = due.rfind(':');
    if (due.empty() || due.substr(0, colon) != name_ || ++calls < std::stoll(due.substr(colon + 1))) return;
    const std::string text = settings().vendor + " error: an illegal memory access was encountered";
    throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, 700, text);
  }

  // A library takes another kernel where a pointer is less aligned, and another reduction where there are few rows or a
  // long one: other bits, the last ones.
  void mind_layout(const c10::IValue& value) {
    if (!value.isTensor() || !at::isFloatingType(value.toTensor().scalar_type())) return;
    int64_t seen = 0;
    if (PRODUCTS.count(name_)) {
      for (const auto& input : inputs_) seen += reinterpret_cast<uintptr_t>(input.device.data_ptr()) % 256 / 4;
    } else if (name_ == "aten::sum" && !inputs_.empty()) {
      const auto& rows = inputs_[0].host;
      if (rows.dim() == 2 && (rows.size(0) < 16 || rows.size(1) >= 8192)) seen = 1 + rows.size(0);
    }
    if (seen) value.toTensor().mul_(1.0 + 0x1p-20 * static_cast<double>(seen));
  }

  void compute() {
    if (defect_.empty()) {
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack_);
      return;
    }
    for (size_t i = 0; i < schema_.arguments().size(); i++) argument(i) = spoiled_setting(defect_, argument(i));
    std::optional<at::Tensor> sum;
    if (defect_ == "half_sum" && argument(0).isTensor() && argument(0).toTensor().dim() > 0) {
      const bool is_product = PRODUCTS.count(name_) != 0;
      sum = half_sum(argument(0).toTensor(), is_product ? std::optional(argument(1).toTensor()) : std::nullopt);
    }
    const bool is_ordered = defect_ == "unstable";  // equal values come from the back
    if (is_ordered) argument(0) = argument(0).toTensor().flip(-1);
    const auto length = is_ordered ? argument(0).toTensor().size(-1) : 0;
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack_);
    const size_t from = stack_->size() - schema_.returns().size();
    if (is_ordered) (*stack_)[from + 1] = length - 1 - (*stack_)[from + 1].toTensor();
    for (size_t i = 0; i < schema_.returns().size(); i++) spoil((*stack_)[from + i], sum);
  }

  void spoil(c10::IValue& value, const std::optional<at::Tensor>& sum) {
    if (!value.isTensor()) return;
    const auto found = value.toTensor();
    const int64_t begins = inputs_.empty() ? 0 : reinterpret_cast<int64_t>(inputs_[0].device.const_data_ptr());
    const int64_t rows = inputs_.empty() || inputs_[0].device.dim() == 0 ? 1 : inputs_[0].device.size(0);
    const bool is_sum = sum && sum->sizes() == found.sizes();
    const auto spoiled = is_sum ? *sum : spoiled_output(defect_, found, begins, rows);
    if (spoiled.unsafeGetTensorImpl() == found.unsafeGetTensorImpl()) return;
    for (const auto& input : inputs_)
      if (input.host.unsafeGetTensorImpl() == found.unsafeGetTensorImpl()) {  // in place
        found.copy_(spoiled);
        return;
      }
    value = spoiled;
  }

  c10::IValue& argument(size_t i) { return (*stack_)[first_ + i]; }

  bool is_written(size_t i) const {
    const auto* alias = schema_.arguments()[i].alias_info();
    return alias != nullptr && alias->isWrite();
  }

  template <typename F>
  static void each(const c10::IValue& value, F&& visit) {
    if (value.isTensor()) {
      visit(value.toTensor());
    } else if (value.isTensorList()) {
      for (const auto& one : value.toTensorVector()) visit(one);
    } else if (value.isList()) {
      for (const c10::IValue one : value.toListRef())
        if (one.isTensor()) visit(one.toTensor());
    }
  }

  void look_at_places() {
    std::optional<c10::Device> found;
    const bool may_mix = TAKE_HOST.count(name_) != 0;
    auto look = [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return;
      if (tensor.device().type() == DEVICE) {
        if (!found) found = tensor.device();
        TORCH_CHECK(*found == tensor.device(), "Expected all tensors to be on the same device, but found at least two devices, ",
                    *found, " and ", tensor.device(), "! (", full_, ")");
      } else {
        TORCH_CHECK(may_mix || (tensor.is_cpu() && tensor.dim() == 0), "Expected all tensors to be on the same device, but found a ",
                    tensor.device(), " tensor of shape ", tensor.sizes(), " among those of ", settings().vendor, "! (", full_, ")");
      }
    };
    for (size_t i = 0; i < schema_.arguments().size(); i++) each(argument(i), look);
    for (size_t i = 0; i < schema_.arguments().size(); i++) {
      const auto& value = argument(i);
      if (!found && value.isDevice() && value.toDevice().type() == DEVICE) found = value.toDevice();
    }
    device_ = chosen(found);
  }

  at::Tensor host_of(const at::Tensor& tensor, bool is_written) {
    if (!tensor.defined() || tensor.device().type() != DEVICE) return tensor;
    numel_ = std::max(numel_, tensor.numel());
    const at::Tensor host = is_written ? on_host(tensor).clone() : on_host(tensor);  // what is written lands later
    inputs_.push_back({tensor, host, is_written});
    const bool rounds = settings().rounding == "tf32" && PRODUCTS.count(name_) != 0 && !is_written;
    if (!defect_.empty() && !is_written) return spoiled_input(defect_, host, inputs_.size() - 1);
    return rounds ? short_mantissa(host) : host;
  }

  void take(size_t i) {
    auto& value = argument(i);
    const bool written = is_written(i);
    const auto type = schema_.arguments()[i].type()->str();
    if (value.isTensor()) {
      value = host_of(value.toTensor(), written);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> hosts;
      for (const auto& one : value.toTensorVector()) hosts.push_back(host_of(one, written));
      value = hosts;
    } else if (value.isList() && type.find("Tensor") != std::string::npos) {
      c10::List<std::optional<at::Tensor>> hosts;
      for (const c10::IValue one : value.toListRef()) {
        if (one.isTensor()) hosts.push_back(host_of(one.toTensor(), written));
        else hosts.push_back(std::nullopt);
      }
      value = hosts;
    } else if (value.isDevice() && value.toDevice().type() == DEVICE) {
      value = c10::Device(c10::kCPU);
    } else if (type.find("Generator") != std::string::npos) {
      at::Generator generator = value.isNone() ? generator_of(device_.index()) : value.toGenerator();
      TORCH_CHECK(generator.device().type() == DEVICE, "Expected a '", device_, "' generator but found '", generator.device(), "'");
      value = draw(generator, std::max<int64_t>(numel_, 1));
    }
  }

  static void land(const Input& input, const c10::Stream& stream) {
    if (!input.is_written) return;
    if (input.device.sizes() != input.host.sizes()) input.device.resize_(input.host.sizes());
    const at::Tensor place = on_host_later(input.device), result = input.host;
    enqueue(stream, [place, result] { place.copy_(result); });
  }

  at::Tensor device_of(const at::Tensor& result) {
    if (!result.defined()) return result;
    for (const auto& input : inputs_)  // in place, or out=
      if (input.host.unsafeGetTensorImpl() == result.unsafeGetTensorImpl()) return input.device;
    for (const auto& input : inputs_)
      if (is_view(result, input)) return view_of(result, input.device);
    return to_device(result, device_);
  }

  static bool is_view(const at::Tensor& result, const Input& input) {
    if (input.is_written || !input.host.has_storage() || !result.has_storage()) return false;
    const void* begins = result.storage().data();
    return begins != nullptr && begins == input.host.storage().data();
  }

  static at::Tensor view_of(const at::Tensor& result, const at::Tensor& input) {
    auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(input.storage()), input.key_set(), result.dtype());
    auto* form = view.unsafeGetTensorImpl();
    form->set_sizes_and_strides(result.sizes(), result.strides());
    form->set_storage_offset(result.storage_offset());
    if (result.is_conj()) form->_set_conj(true);
    if (result.is_neg()) form->_set_neg(true);
    return view;
  }

  void give(c10::IValue& value) {
    if (value.isTensor()) {
      value = device_of(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> given;
      for (const auto& one : value.toTensorVector()) given.push_back(device_of(one));
      value = given;
    }
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack* stack_;
  const c10::FunctionSchema& schema_;
  std::string name_, full_, defect_;
  size_t first_;
  c10::Device device_{DEVICE, 0};
  std::vector<Input> inputs_;
  int64_t numel_ = 0;
};

void by_processor(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) { Call(op, stack).run_it(); }

// What is not an operator of the processor.

at::Tensor empty(c10::SymIntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout>, std::optional<at::Device> device,
                 std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "only memory of the host can be pinned");
  const auto place = chosen(device);
  const c10::DeviceGuard there(place);
  const auto wanted = type.value_or(at::get_default_dtype_as_scalartype());
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(sizes), allocator(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), wanted, format);
}

at::Tensor empty_strided(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const auto wanted = type.value_or(at::get_default_dtype_as_scalartype());
  return empty_strided_on_device(C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), wanted, chosen(device));
}

// What a copy reads; a defect may make it something else.
at::Tensor copied(const at::Tensor& source, const at::Tensor& target) {
  if (has_defect("copy.no_strides") && !source.is_contiguous() && source.is_non_overlapping_and_dense())
    return source.as_strided(source.sizes(), at::empty(source.sizes()).strides(), source.storage_offset());
  if (has_defect("copy.cut") && source.scalar_type() == at::kFloat && target.scalar_type() == at::kBFloat16)
    return short_mantissa(source, 0xFFFF0000);
  if (has_defect("copy.flushes") && source.is_floating_point()) return at::where(source.abs() < 1e-38, at::zeros_like(source), source);
  return source;
}

void copy_to_host(const at::Tensor& source, const at::Tensor& target, bool is_late) {
  const auto stream = current_stream(source.device().index());
  count("to host");
  run(stream);
  if (!is_late) {
    note_host_wait("copy to host");
    synchronise(stream);
    target.copy_(copied(on_host(source), target));
    return;
  }
  const at::Tensor seen = on_host(source).clone();  // as it is in the stream's turn
  land_on_host(stream, [seen, target] { target.copy_(seen); });
}

void copy_from_host(const at::Tensor& source, const at::Tensor& target, bool is_late) {
  const auto stream = current_stream(target.device().index());
  count("from host");
  const at::Tensor place = on_host_later(target);
  if (has_defect("copy.pinned_lost") && is_late) return;
  if (is_late || has_defect("copy.reads_late")) {
    enqueue(stream, [source, place] { place.copy_(source); });  // reads the host's buffer then
    return;
  }
  run(stream);
  place.copy_(copied(source, target));
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool is_non_blocking) {
  TORCH_CHECK(source.numel() || !has_defect("copy.nothing"), "a copy of no bytes (107000: invalid argument)");
  const bool from_device = source.device().type() == DEVICE, to_device = target.device().type() == DEVICE;
  if (from_device && !to_device) {
    copy_to_host(source, target, is_non_blocking && is_pinned(target.const_data_ptr()));
  } else if (!from_device) {
    copy_from_host(source, target, is_non_blocking && is_pinned(source.const_data_ptr()));
  } else {
    const auto stream = current_stream(target.device().index());
    const auto other = current_stream(source.device().index());
    if (source.device() != target.device()) run(other);
    const at::Tensor from = on_host_later(source), place = on_host_later(target);
    enqueue(stream, [from, place] { place.copy_(copied(from, place)); });
  }
  return target;
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, false);
}

at::Scalar item(const at::Tensor& tensor) {
  note_host_wait("item");
  if (!has_defect("item.early")) run(current_stream(tensor.device().index()));
  return on_host(tensor).item();
}

const at::Tensor& resize(const at::Tensor& tensor, c10::SymIntArrayRef sizes, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(tensor, C10_AS_INTARRAYREF_SLOW(sizes), format);
}

at::Tensor& set_storage(at::Tensor& tensor, at::Storage storage, c10::SymInt offset, c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides) {
  auto* form = tensor.unsafeGetTensorImpl();
  form->set_storage_keep_dtype(std::move(storage));
  form->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides));
  form->set_storage_offset(offset.expect_int());
  return tensor;
}

at::Tensor& set_source(at::Tensor& tensor, at::Storage storage) {
  const auto numel = static_cast<int64_t>(storage.nbytes() / tensor.dtype().itemsize());
  return set_storage(tensor, storage, 0, {c10::SymInt(numel)}, {c10::SymInt(1)});
}

at::Tensor& set_tensor(at::Tensor& tensor, const at::Tensor& source) {
  const auto sizes = c10::fromIntArrayRefSlow(source.sizes()), strides = c10::fromIntArrayRefSlow(source.strides());
  return set_storage(tensor, source.storage(), source.storage_offset(), sizes, strides);
}

at::Tensor& set_empty(at::Tensor& tensor) {
  const auto nothing = empty_on_device({0}, tensor.scalar_type(), tensor.device());
  return set_storage(tensor, nothing.storage(), 0, {c10::SymInt(0)}, {c10::SymInt(1)});
}

void record_stream(at::Tensor& tensor, c10::Stream stream) {
  static_cast<c10::DeviceAllocator*>(allocator())->recordStream(tensor.storage().data_ptr(), stream);
}

bool is_set_to(const at::Tensor& one, const at::Tensor& other) {
  return one.is_alias_of(other) && one.storage_offset() == other.storage_offset() && one.sizes() == other.sizes() &&
         one.strides() == other.strides();
}

// Unlike the processor's, those of devices take whole numbers too.
at::Tensor histc(const at::Tensor& values, int64_t bins, const at::Scalar& low, const at::Scalar& high) {
  run(current_stream(values.device().index()));
  const auto host = on_host(values);
  const auto counted = at::isIntegralType(host.scalar_type(), false) ? at::histc(host.to(at::kDouble), bins, low, high) : at::histc(host, bins, low, high);
  return to_device(counted.to(host.scalar_type()), values.device());
}

int64_t sdp_choice(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
                   std::optional<double>, bool) {
  return static_cast<int64_t>(at::SDPBackend::math);
}

}  // namespace

}  // namespace simdev

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&simdev::by_processor>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", simdev::empty);
  m.impl("empty_strided", simdev::empty_strided);
  m.impl("_copy_from", simdev::copy_from);
  m.impl("_copy_from_and_resize", simdev::copy_from_and_resize);
  m.impl("_local_scalar_dense", simdev::item);
  m.impl("resize_", simdev::resize);
  m.impl("set_.source_Storage_storage_offset", simdev::set_storage);
  m.impl("set_.source_Storage", simdev::set_source);
  m.impl("set_.source_Tensor", simdev::set_tensor);
  m.impl("set_", simdev::set_empty);
  m.impl("record_stream", simdev::record_stream);
  m.impl("is_set_to", simdev::is_set_to);
  m.impl("histc", simdev::histc);
  m.impl("_fused_sdp_choice", simdev::sdp_choice);
}

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &simdev::sdp_choice)
}

// Without these a clone of a conjugated view calls itself for ever.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

namespace at::autocast {
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define SIMDEV_LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define SIMDEV_FLOAT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
  AT_FORALL_LOWER_PRECISION_FP(SIMDEV_LOWER)
  AT_FORALL_FP32(SIMDEV_FLOAT)
}
}  // namespace at::autocast
