// The vendor's collective library, and what Python sees of the device.
//
// It moves what lies on the device, and refuses everything else. Underneath it is gloo over the device's memory.
#include "simdev.h"

#include <c10/core/DeviceGuard.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/csrc/utils/pybind.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>

namespace simdev {

void register_hooks();
at::Generator& generator_of(c10::DeviceIndex index);
std::map<std::string, int64_t> all_counts();
void forget_counts();

namespace {

using c10d::Backend;
using Tensors = std::vector<at::Tensor>;
using BackendPtr = c10::intrusive_ptr<Backend>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

std::vector<c10::Device> devices_of(const Tensors& tensors) {
  for (const auto& tensor : tensors)
    if (tensor.device().type() == DEVICE) return {tensor.device()};
  return {};
}

// Operations that occupy the device until all ranks have come to them. A device that has to make room, or to load
// something, waits until they are through (SIMDEV_SYNCHRONISES), as CUDA's allocation does.
std::mutex kernels_turn;
std::condition_variable kernels_end;
int kernels_running = 0;

void count_kernels(int more) {
  std::lock_guard<std::mutex> mine(kernels_turn);
  kernels_running += more;
  kernels_end.notify_all();
}

// gloo's work, with the tensors of the device that it fills.
class DeviceWork : public c10d::Work {
 public:
  DeviceWork(WorkPtr inner, Tensors outputs, int rank) : Work(rank), inner_(std::move(inner)), outputs_(std::move(outputs)) {
    count_kernels(1);
  }
  ~DeviceWork() override { end(); }

  bool isCompleted() override { return inner_->isCompleted(); }
  bool isSuccess() const override { return inner_->isSuccess(); }
  bool wait(std::chrono::milliseconds timeout) override {
    const bool is_done = inner_->wait(timeout);
    end();
    return is_done;
  }
  void synchronize() override { wait(kNoTimeout); }
  void abort() override { inner_->abort(); }
  int sourceRank() const override { return inner_->sourceRank(); }
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    if (!future_) {
      future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()), devices_of(outputs_));
      wait(kNoTimeout);
      future_->markCompleted(at::IValue(outputs_));
    }
    return future_;
  }

 private:
  void end() {
    if (!has_ended_.exchange(true)) count_kernels(-1);
  }

  WorkPtr inner_;
  Tensors outputs_;
  std::atomic<bool> has_ended_{false};
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

class Collectives : public Backend {
 public:
  Collectives(BackendPtr inner, std::string name, bool refuses_twins)
      : Backend(inner->getRank(), inner->getSize()), inner_(std::move(inner)), name_(std::move(name)), refuses_twins_(refuses_twins) {}

  const std::string getBackendName() const override { return name_; }
  bool supportsCoalescing() const override { return true; }
  void setSequenceNumberForGroup() override { inner_->setSequenceNumberForGroup(); }
  uint64_t getSequenceNumberForGroup() override { return inner_->getSequenceNumberForGroup(); }
  void abort() override { inner_->abort(); }

  // A batch of messages: HCCL takes no two of one direction to one peer.
  void startCoalescing() override {
    batch_.clear();
    begun_.clear();
    is_batch_ = true;
  }
  WorkPtr endCoalescing() override {
    is_batch_ = false;
    TORCH_CHECK(!begun_.empty(), name_, ": an empty batch");
    return c10::make_intrusive<Batch>(std::move(begun_), getRank());
  }

  WorkPtr send(Tensors& tensors, int to, int tag) override { return message(tensors, to, true, tag); }
  WorkPtr recv(Tensors& tensors, int from, int tag) override { return message(tensors, from, false, tag); }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto hosts = host(tensors);
    auto changed = options;
    if (has_defect("broadcast.other_root")) changed.rootRank = getSize() - 1 - options.rootRank;
    return work(inner_->broadcast(hosts, changed), tensors);
  }
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    auto hosts = host(tensors);
    if (has_defect("allreduce.drops_a_rank") && getRank() == 1)
      for (auto& one : hosts) one.zero_();
    return work(inner_->allreduce(hosts, options), tensors);
  }
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    auto hosts = host(tensors);
    return work(inner_->reduce(hosts, options), tensors);
  }
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& tensors, const c10d::AllgatherOptions& options) override {
    auto hosts = host(tensors);
    auto places = host(outputs);
    if (has_defect("allgather.other_order"))
      for (auto& list : places) std::reverse(list.begin(), list.end());
    return work(inner_->allgather(places, hosts, options), flat(outputs));
  }
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& tensor, const c10d::AllgatherOptions& options) override {
    auto place = host(output), from = host(tensor);
    return work(inner_->_allgather_base(place, from, options), {output});
  }
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& tensor, const c10d::ReduceScatterOptions& options) override {
    auto place = host(output), from = host(tensor);
    return work(inner_->_reduce_scatter_base(place, from, options), {output});
  }
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& tensor, std::vector<int64_t>& output_sizes, std::vector<int64_t>& input_sizes,
                        const c10d::AllToAllOptions& options) override {
    if (settings().missing.count("alltoall_base")) return Backend::alltoall_base(output, tensor, output_sizes, input_sizes, options);
    auto place = host(output), from = host(tensor);
    if (has_defect("alltoall.uneven_cut") && from.numel() && output_sizes.size() && input_sizes[0] != input_sizes.back()) from[-1].zero_();
    TORCH_CHECK(from.numel() || !has_defect("alltoall.refuses_nothing"), name_, ": an empty buffer (invalid argument)");
    return work(inner_->alltoall_base(place, from, output_sizes, input_sizes, options), {output});
  }
  WorkPtr barrier(const c10d::BarrierOptions& options) override { return inner_->barrier(options); }

 private:
  class Batch : public c10d::Work {
   public:
    Batch(std::vector<WorkPtr> parts, int rank) : Work(rank), parts_(std::move(parts)) {}
    bool isCompleted() override {
      for (const auto& part : parts_)
        if (!part->isCompleted()) return false;
      return true;
    }
    bool wait(std::chrono::milliseconds timeout) override {
      for (const auto& part : parts_) part->wait(timeout);
      return true;
    }
    void synchronize() override { wait(kNoTimeout); }

   private:
    std::vector<WorkPtr> parts_;
  };

  at::Tensor host(const at::Tensor& tensor) {
    TORCH_CHECK(has_entered(), name_, ": this thread has chosen no device (107002: context is empty)");
    TORCH_CHECK(tensor.device().type() == DEVICE, name_, ": a tensor of ", settings().vendor, " is due, not one of ", tensor.device());
    if (!has_defect("send.reads_early")) run(current_stream(tensor.device().index()));
    return on_host(tensor);
  }
  Tensors host(const Tensors& tensors) {
    Tensors hosts;
    for (const auto& one : tensors) hosts.push_back(host(one));
    return hosts;
  }
  std::vector<Tensors> host(const std::vector<Tensors>& lists) {
    std::vector<Tensors> hosts;
    for (const auto& one : lists) hosts.push_back(host(one));
    return hosts;
  }
  static Tensors flat(const std::vector<Tensors>& lists) {
    Tensors all;
    for (const auto& one : lists) all.insert(all.end(), one.begin(), one.end());
    return all;
  }
  WorkPtr work(WorkPtr inner, Tensors outputs) { return c10::make_intrusive<DeviceWork>(std::move(inner), std::move(outputs), getRank()); }

  WorkPtr message(Tensors& tensors, int peer, bool is_sent, int tag) {
    if (is_batch_ && refuses_twins_)
      TORCH_CHECK(batch_.insert({peer, is_sent}).second, name_, ": two messages ", is_sent ? "to" : "from", " rank ", peer, " in one batch");
    auto hosts = host(tensors);
    if (has_defect("send.cut") && is_sent && hosts[0].numel() > 1) hosts[0] = at::cat({hosts[0].slice(0, 0, -1), hosts[0].slice(0, 0, 1)});
    auto done = work(is_sent ? inner_->send(hosts, peer, tag) : inner_->recv(hosts, peer, tag), tensors);
    if (is_batch_) begun_.push_back(done);
    return done;
  }

  BackendPtr inner_;
  std::string name_;
  bool refuses_twins_;
  bool is_batch_ = false;
  std::set<std::pair<int, bool>> batch_;
  std::vector<WorkPtr> begun_;
};

py::object* on_host_wait = nullptr;  // for Python, which can tell from where

}  // namespace

void await_kernels() {
  std::unique_lock<std::mutex> mine(kernels_turn);
  kernels_end.wait(mine, [] { return kernels_running == 0; });
}

void note_host_wait(const char* what) {
  count("host waits");
  if (on_host_wait == nullptr) return;
  py::gil_scoped_acquire python;
  (*on_host_wait)(what);
}

}  // namespace simdev

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace simdev;
  register_hooks();
  m.def("device_count", [] { return settings().num_devices; });
  m.def("current_device", [] { return static_cast<int>(current_device()); });
  m.def("set_device", [](int index) { enter_device(static_cast<c10::DeviceIndex>(index)); });
  m.def("default_generator", [](int index) { return generator_of(static_cast<c10::DeviceIndex>(index)); });
  m.def("set_defect", &set_defect);
  m.def("counts", &all_counts);
  m.def("forget_counts", &forget_counts);
  m.def("watch_host_waits", [](py::object call) {
    delete on_host_wait;
    on_host_wait = call.is_none() ? nullptr : new py::object(call);
  });
  m.def("collectives", [](c10::intrusive_ptr<c10d::Backend> inner, std::string name, bool refuses_twins) {
    return c10::intrusive_ptr<c10d::Backend>(c10::make_intrusive<Collectives>(inner, name, refuses_twins));
  });
}
