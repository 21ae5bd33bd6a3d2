// Device memory, and pinned memory of the host.
//
// The same pages are mapped twice: at the addresses that tensors have, where nobody may read or write, and at others
// that only this simulation knows. Whatever takes a device address for one of the host dies with SIGSEGV.
#include "simdev.h"

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <vector>

namespace simdev {
namespace {

constexpr size_t SPAN = size_t(1) << 36;  // of addresses for each device; pages are taken as they are touched
constexpr size_t SMALLEST = 512;          // what a tensor begins at is a multiple of this
constexpr size_t PAGE = 4096;

bool is_forked = false;

// Both mappings of all devices, made at the first use: a process that only forked holds nothing of its parent's.
struct Mappings {
  char* device;
  char* host;

  Mappings() {
    TORCH_CHECK(!is_forked, settings().vendor, ": memory cannot be used in a process that was forked after its first use");
    const size_t all = SPAN * MOST_DEVICES;
    const int file = memfd_create("simdev", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ftruncate(file, static_cast<off_t>(all)) == 0, "simdev: no memory of its own");
    device = map(all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    host = map(all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file);
    close(file);
    madvise(host, all, MADV_DONTFORK);
    pthread_atfork(nullptr, nullptr, [] { is_forked = true; });
  }

  static char* map(size_t size, int protection, int flags, int file) {
    void* found = mmap(nullptr, size, protection, flags, file, 0);
    TORCH_CHECK(found != MAP_FAILED, "simdev: no room for ", size, " bytes of addresses");
    return static_cast<char*>(found);
  }
};

Mappings& mappings() {
  static Mappings made;
  TORCH_CHECK(!is_forked, settings().vendor, ": a process that was forked after the first use cannot use the device");
  return made;
}

// One device's blocks. A block goes back to the stream that has asked for it, as in torch's own allocators: another
// stream that still reads it reads what comes there next, unless that was told with record_stream.
struct Pool {
  int64_t in_use = 0, peak = 0, allocated = 0, freed = 0, num_blocks = 0, num_allocations = 0, num_frees = 0, num_ooms = 0;
  size_t end = 0;                                                        // nothing has been given out beyond
  std::map<std::pair<c10::StreamId, size_t>, std::vector<size_t>> free;  // by stream and size
};

struct Block {
  size_t offset, size;
  c10::Stream stream;
  std::vector<c10::Stream> others;  // that use it, too
  std::vector<int64_t> upto;        // how far those must have come when it is freed
};

std::mutex pools_turn;
Pool pools[MOST_DEVICES];
std::vector<Block*> awaiting;  // freed, and still used by other streams

size_t rounded(size_t size) {
  size = (size + SMALLEST - 1) / SMALLEST * SMALLEST;
  if (size <= PAGE) return size;
  size_t step = PAGE;  // eight sizes for each power of two, so that freed blocks are found again
  while (step * 16 < size) step *= 2;
  return (size + step - 1) / step * step;
}

void give_back(Block* block) {
  auto& pool = pools[block->stream.device_index()];
  pool.free[{block->stream.id(), block->size}].push_back(block->offset);
  delete block;
}

bool is_free(const Block& block) {
  for (size_t i = 0; i < block.upto.size(); i++)
    if (!is_done(block.others[i], block.upto[i])) return false;
  return true;
}

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  for (const auto& other : block->others) block->upto.push_back(enqueued(other));
  const bool free_now = is_free(*block);
  std::lock_guard<std::mutex> mine(pools_turn);
  auto& pool = pools[block->stream.device_index()];
  pool.in_use -= static_cast<int64_t>(block->size);
  pool.freed += static_cast<int64_t>(block->size);
  pool.num_frees++;
  pool.num_blocks--;
  if (free_now) give_back(block);
  else awaiting.push_back(block);
}

void look_at_awaiting() {
  std::vector<Block*> left, all;
  {
    std::lock_guard<std::mutex> mine(pools_turn);
    all.swap(awaiting);
  }
  for (auto* block : all) {
    const bool free_now = is_free(*block);
    std::lock_guard<std::mutex> mine(pools_turn);
    if (free_now) give_back(block);
    else awaiting.push_back(block);
  }
}

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t size) override {
    const auto index = current_device();
    const c10::Device device(DEVICE, index);
    if (size == 0) return {nullptr, nullptr, &no_memory, device};
    static const bool synchronises = getenv("SIMDEV_SYNCHRONISES") != nullptr;
    if (synchronises) await_kernels();
    look_at_awaiting();
    const auto stream = current_stream(index);
    auto* block = take(size, stream);
    char* address = mappings().device + SPAN * static_cast<size_t>(index) + block->offset;
    void* place = host_address(address);
    const size_t all = block->size;
    // NaN of every type; in the stream's turn, since what was there before may still be read by then.
    enqueue(stream, [place, all] { memset(place, 0xFF, all); });
    return {address, block, &free_block, device};
  }

  static Block* take(size_t asked, const c10::Stream& stream) {
    const size_t size = rounded(asked);
    std::lock_guard<std::mutex> mine(pools_turn);
    auto& pool = pools[stream.device_index()];
    const auto limit = settings().memory_bytes;
    if (pool.in_use + static_cast<int64_t>(size) > limit) {
      pool.num_ooms++;
      TORCH_CHECK_WITH(OutOfMemoryError, false, settings().vendor, ":", int(stream.device_index()),
                       " is out of memory: ", asked, " bytes asked for, ", pool.in_use, " of ", limit, " in use");
    }
    pool.in_use += static_cast<int64_t>(size);
    pool.allocated += static_cast<int64_t>(size);
    pool.peak = std::max(pool.peak, pool.in_use);
    pool.num_allocations++;
    pool.num_blocks++;
    auto& free = pool.free[{stream.id(), size}];
    if (!free.empty()) {
      const size_t offset = free.back();
      free.pop_back();
      return new Block{offset, size, stream, {}, {}};
    }
    TORCH_CHECK_WITH(OutOfMemoryError, pool.end + size <= SPAN, "simdev: no addresses left");
    const size_t offset = pool.end;
    pool.end += size;
    return new Block{offset, size, stream, {}, {}};
  }

  static void no_memory(void*) {}

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t size) const override {
    memcpy(host_address(to), host_address(from), size);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}

  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    auto* block = static_cast<Block*>(data.get_context());
    if (block == nullptr || data.get_deleter() != &free_block) return;
    std::lock_guard<std::mutex> mine(pools_turn);
    if (stream != block->stream) block->others.push_back(stream);
  }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    std::lock_guard<std::mutex> mine(pools_turn);
    const auto& pool = pools[index];
    c10::CachingDeviceAllocator::DeviceStats stats;
    auto fill = [](auto& stat, int64_t now, int64_t peak, int64_t came, int64_t went) {
      stat[0].current = now;
      stat[0].peak = peak;
      stat[0].allocated = came;
      stat[0].freed = went;
    };
    fill(stats.allocated_bytes, pool.in_use, pool.peak, pool.allocated, pool.freed);
    fill(stats.reserved_bytes, pool.in_use, pool.peak, pool.allocated, pool.freed);
    fill(stats.active_bytes, pool.in_use, pool.peak, pool.allocated, pool.freed);
    fill(stats.allocation, pool.num_blocks, pool.num_blocks, pool.num_allocations, pool.num_frees);
    stats.num_ooms = pool.num_ooms;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex index) override {
    std::lock_guard<std::mutex> mine(pools_turn);
    pools[index].allocated = pools[index].in_use;
    pools[index].freed = 0;
  }
  void resetPeakStats(c10::DeviceIndex index) override {
    std::lock_guard<std::mutex> mine(pools_turn);
    pools[index].peak = pools[index].in_use;
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    std::lock_guard<std::mutex> mine(pools_turn);
    const int64_t limit = settings().memory_bytes;
    return {static_cast<size_t>(limit - pools[index].in_use), static_cast<size_t>(limit)};
  }
};

// Pinned memory of the host: copies from and to it may be late.

std::mutex pinned_turn;
std::map<const char*, size_t> pinned;

struct PinnedMemory final : at::HostAllocator {
  static void release(void* address) {
    {
      std::lock_guard<std::mutex> mine(pinned_turn);
      pinned.erase(static_cast<const char*>(address));
    }
    c10::free_cpu(address);
  }
  c10::DataPtr allocate(size_t size) override {
    if (size == 0) return {nullptr, c10::Device(c10::kCPU)};
    void* address = c10::alloc_cpu(size);
    std::lock_guard<std::mutex> mine(pinned_turn);
    pinned[static_cast<const char*>(address)] = size;
    return {address, address, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override { memcpy(to, from, size); }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
};

DeviceMemory device_memory;
PinnedMemory pinned_memory;
REGISTER_ALLOCATOR(DEVICE, &device_memory)
REGISTER_HOST_ALLOCATOR(DEVICE, &pinned_memory)

}  // namespace

void* host_address(const void* address) {
  if (address == nullptr) return nullptr;
  const auto& both = mappings();
  const auto offset = static_cast<const char*>(address) - both.device;
  TORCH_CHECK(offset >= 0 && static_cast<size_t>(offset) < SPAN * MOST_DEVICES, "simdev: no address of a device: ", address);
  return both.host + offset;
}

c10::Allocator* allocator() { return &device_memory; }
c10::Allocator* pinned_allocator() { return &pinned_memory; }

bool is_pinned(const void* address) {
  std::lock_guard<std::mutex> mine(pinned_turn);
  auto found = pinned.upper_bound(static_cast<const char*>(address));
  if (found == pinned.begin()) return false;
  --found;
  return static_cast<const char*>(address) < found->first + found->second;
}

}  // namespace simdev
