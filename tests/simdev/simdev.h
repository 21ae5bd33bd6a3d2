// A simulated vendor's device, for tests: torch's PrivateUse1 on this machine's processor.
//
// What a real device does to a program, and a processor alone does not, is done here on purpose:
//   memory.cpp       its memory is at addresses that the host cannot read; fresh memory holds NaN; there is an end to it
//   streams.cpp      what a stream is given lands late: when somebody waits for it, or the same stream goes on
//   operators.cpp    tensors of two places do not mix; operators may be missing, or round otherwise
//   collectives.cpp  its collective library knows the devices of its own vendor only
//   defects.cpp      what may be wrong with it, for a test of who should find that
//
// A process has one vendor, chosen by the environment (settings() below) before the first use.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>

namespace simdev {

constexpr auto DEVICE = c10::DeviceType::PrivateUse1;
constexpr int MOST_DEVICES = 8;

struct Settings {
  std::string vendor;                     // SIMDEV_VENDOR: the device's name in torch, such as "sima"
  int num_devices;                        // SIMDEV_DEVICES
  int64_t memory_bytes;                   // SIMDEV_MEMORY_MB, of each device
  std::string rounding;                   // SIMDEV_ROUNDING: "" or "tf32": products read 10 bits of a mantissa
  std::set<std::string> missing;          // SIMDEV_MISSING: operators that the vendor lacks, aten::x,aten::y.Tensor; alltoall_base
  std::set<std::string> by_host;          // SIMDEV_BY_HOST: operators that fall back to the host, and are counted
  bool minds_layout;                      // SIMDEV_MINDS_LAYOUT=1: bits of products follow alignment, of row sums the rows
  std::string fails_at;                   // SIMDEV_FAILS_AT: aten::x:N, at whose N-th call the device fails
  std::set<std::string> unordered;        // SIMDEV_UNORDERED: operators that have no deterministic form
};

const Settings& settings();

// Which device, and which stream of it, this thread is at.
c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex index);
void check_index(c10::DeviceIndex index);
void enter_device(c10::DeviceIndex index);  // the same, by a program's own word
bool has_entered();                       // whether this thread has done so
c10::Stream current_stream(c10::DeviceIndex index);

// memory.cpp
void* host_address(const void* device_address);        // where the simulation itself reads and writes
c10::Allocator* allocator();
bool is_pinned(const void* address);

// streams.cpp
using Work = std::function<void()>;
void enqueue(const c10::Stream& stream, Work work);         // done in turn, when the stream is run
void land_on_host(const c10::Stream& stream, Work work);    // done when the host waits for the stream
void run(const c10::Stream& stream);                        // all that was enqueued; nothing lands on the host
void note_host_wait(const char* what);                      // the host waits for the device here
void synchronise(const c10::Stream& stream);
void synchronise_device(c10::DeviceIndex index);
int64_t enqueued(const c10::Stream& stream);                // how much it has been given so far
bool is_done(const c10::Stream& stream, int64_t upto);

// defects.cpp
void set_defect(const std::string& name);
bool has_defect(const char* name);
std::string defect_of(const std::string& op);
at::Tensor spoiled_input(const std::string& how, const at::Tensor& input, size_t place);
c10::IValue spoiled_setting(const std::string& how, const c10::IValue& value);
at::Tensor spoiled_output(const std::string& how, const at::Tensor& result, int64_t begins, int64_t rows);
at::Tensor half_sum(const at::Tensor& left, const std::optional<at::Tensor>& right);

// operators.cpp
at::Tensor on_host(const at::Tensor& tensor);          // the same memory as a tensor of the processor
at::Tensor empty_on_device(at::IntArrayRef sizes, at::ScalarType type, c10::Device device);
void count(const std::string& what);

// collectives.cpp
void await_kernels();  // until no collective occupies the device

}  // namespace simdev
