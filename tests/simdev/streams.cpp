// Streams and events. Work that a stream is given is done in turn, and not before it must be: when the stream goes on
// with an operator, or somebody waits. What a copy brings to the host lands later still, when the host itself waits:
// so a host that reads too early, a buffer that is used again too early, and a wait that is missing between two
// streams all show as wrong numbers, every time.
#include "simdev.h"

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <sstream>
#include <vector>

namespace simdev {

c10::Allocator* pinned_allocator();

namespace {

std::string variable(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value ? value : otherwise;
}

std::set<std::string> names_in(const char* name) {
  std::set<std::string> found;
  std::stringstream text(variable(name, ""));
  for (std::string one; std::getline(text, one, ',');)
    if (!one.empty()) found.insert(one);
  return found;
}

Settings read_settings() {
  return {variable("SIMDEV_VENDOR", "sima"), std::stoi(variable("SIMDEV_DEVICES", "2")),
          std::stoll(variable("SIMDEV_MEMORY_MB", "2048")) << 20, variable("SIMDEV_ROUNDING", ""), names_in("SIMDEV_MISSING"),
          names_in("SIMDEV_BY_HOST"), variable("SIMDEV_MINDS_LAYOUT", "0") == "1", variable("SIMDEV_FAILS_AT", ""),
          names_in("SIMDEV_UNORDERED")};
}

struct Item {
  int64_t number;
  Work work;
};

struct Queue {
  std::deque<Item> work, landings;
  int64_t given = 0, done = 0;  // numbers of the last item
};

using Key = std::pair<c10::DeviceIndex, c10::StreamId>;
std::recursive_mutex queues_turn;
thread_local int depth = 0;
thread_local std::vector<Work> done_work;

// What has been done is let go of when the turn is over: a tensor that Python has forgotten takes the interpreter's lock
// with it, and whoever holds that may be waiting for the turn.
struct Turn {
  Turn() {
    queues_turn.lock();
    depth++;
  }
  ~Turn() {
    std::vector<Work> over;
    if (--depth == 0) over.swap(done_work);
    queues_turn.unlock();
  }
};

std::map<Key, Queue> queues;
std::atomic<c10::StreamId> last_stream{0};

thread_local c10::DeviceIndex device_of_thread = 0;
thread_local bool thread_has_entered = false;
thread_local std::map<c10::DeviceIndex, c10::StreamId> own_streams;
std::map<c10::DeviceIndex, c10::StreamId> everybody_s_streams;
std::atomic<c10::DeviceIndex> everybody_s_device{0};

std::map<c10::DeviceIndex, c10::StreamId>& streams_of_thread() { return has_defect("stream.of_process") ? everybody_s_streams : own_streams; }

Key key_of(const c10::Stream& stream) { return {stream.device_index(), stream.id()}; }

void do_until(std::deque<Item>& items, int64_t upto) {
  while (!items.empty() && items.front().number <= upto) {
    auto work = std::move(items.front().work);
    items.pop_front();
    work();
    done_work.push_back(std::move(work));
  }
}

void run_until(Queue& queue, int64_t upto) {
  do_until(queue.work, upto);
  queue.done = std::max(queue.done, upto);
}

void land_until(Queue& queue, int64_t upto) {
  run_until(queue, upto);
  do_until(queue.landings, upto);
}

}  // namespace

const Settings& settings() {
  static const Settings found = read_settings();
  return found;
}

c10::DeviceIndex current_device() { return has_defect("device.of_process") ? everybody_s_device.load() : device_of_thread; }

bool has_entered() { return thread_has_entered; }

void check_index(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < settings().num_devices, settings().vendor, ": no device ", int(index), ", there are ",
              settings().num_devices);
}

void set_current_device(c10::DeviceIndex index) {
  check_index(index);
  device_of_thread = index;
  everybody_s_device = index;
}

void enter_device(c10::DeviceIndex index) {
  set_current_device(index);
  thread_has_entered = true;
}

c10::Stream current_stream(c10::DeviceIndex index) {
  return c10::Stream(c10::Stream::UNSAFE, {DEVICE, index}, streams_of_thread()[index]);
}

void enqueue(const c10::Stream& stream, Work work) {
  const Turn mine;
  auto& queue = queues[key_of(stream)];
  queue.work.push_back({++queue.given, std::move(work)});
}

void land_on_host(const c10::Stream& stream, Work work) {
  const Turn mine;
  auto& queue = queues[key_of(stream)];
  queue.landings.push_back({queue.given, std::move(work)});
}

void run(const c10::Stream& stream) {
  const Turn mine;
  auto& queue = queues[key_of(stream)];
  run_until(queue, queue.given);
}

void synchronise(const c10::Stream& stream) {
  const Turn mine;
  auto& queue = queues[key_of(stream)];
  land_until(queue, queue.given);
}

void synchronise_device(c10::DeviceIndex index) {
  const Turn mine;
  for (auto& [key, queue] : queues)
    if (key.first == index) land_until(queue, queue.given);
}

int64_t enqueued(const c10::Stream& stream) {
  const Turn mine;
  return queues[key_of(stream)].given;
}

bool is_done(const c10::Stream& stream, int64_t upto) {
  const Turn mine;
  return queues[key_of(stream)].done >= upto;
}

namespace {

// A moment in a stream: what it had been given by then.
struct Event {
  c10::Stream stream;
  int64_t upto;
  std::chrono::steady_clock::time_point at;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return DEVICE; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = current_device();
    if (device.has_index()) set_current_device(device.index());
    return {DEVICE, before};
  }
  c10::Device getDevice() const override { return {DEVICE, current_device()}; }
  void setDevice(c10::Device device) const override {  // a program's word: guards exchange
    if (device.has_index()) enter_device(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) everybody_s_device = device_of_thread = device.index();
  }
  c10::Stream getStream(c10::Device device) const override { return current_stream(index_of(device)); }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, {DEVICE, index_of(device)});
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getNewStream(device, 0); }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return c10::Stream(c10::Stream::UNSAFE, {DEVICE, index_of(device)}, ++last_stream);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = current_stream(stream.device_index());
    streams_of_thread()[stream.device_index()] = stream.id();
    return before;
  }

  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    delete static_cast<Event*>(*event);
    *event = new Event{stream, enqueued(stream), std::chrono::steady_clock::now()};
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == nullptr || has_defect("wait_event.ignored")) return;
    const auto moment = *static_cast<Event*>(event);
    enqueue(stream, [moment] { run_until(queues[key_of(moment.stream)], moment.upto); });
  }
  bool queryEvent(void* event) const override {
    if (event == nullptr || has_defect("event.always_done")) return true;
    // Nothing goes on by itself here, so that each look does what a moment would have done.
    const auto moment = *static_cast<Event*>(event);
    const Turn mine;
    auto& queue = queues[key_of(moment.stream)];
    const bool was_done = queue.done >= moment.upto;
    land_until(queue, moment.upto);
    return was_done;
  }
  void synchronizeEvent(void* event) const override {
    note_host_wait("event");
    if (event == nullptr || has_defect("event.synchronise_ignored")) return;
    const auto moment = *static_cast<Event*>(event);
    const Turn mine;
    land_until(queues[key_of(moment.stream)], moment.upto);
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    if (has_defect("event.no_time")) return 0;
    const auto passed = static_cast<Event*>(to)->at - static_cast<Event*>(from)->at;
    return std::chrono::duration<double, std::milli>(passed).count();
  }

  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(settings().num_devices); }
  bool queryStream(const c10::Stream& stream) const override {
    const Turn mine;
    auto& queue = queues[key_of(stream)];
    const bool was_done = queue.done >= queue.given;
    land_until(queue, queue.given);
    return was_done;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    note_host_wait("stream");
    if (!has_defect("stream.synchronise_ignored")) synchronise(stream);
  }
  void synchronizeDevice(const c10::DeviceIndex index) const override {
    note_host_wait("device");
    if (has_defect("device.synchronises_one_stream")) synchronise(current_stream(index));
    else synchronise_device(index);
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    static_cast<c10::DeviceAllocator*>(allocator())->recordStream(data, stream);
  }

  static c10::DeviceIndex index_of(c10::Device device) { return device.has_index() ? device.index() : device_of_thread; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

}  // namespace

// Random numbers: by seed and offset, as on a device, and not those of the processor.

struct Generator final : c10::GeneratorImpl {
  uint64_t seed_ = c10::default_rng_seed_val, offset_ = 0;

  explicit Generator(c10::DeviceIndex index)
      : GeneratorImpl({DEVICE, index}, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}
  void set_current_seed(uint64_t seed) override {
    if (!has_defect("seed.ignored")) seed_ = seed;
    offset_ = 0;
  }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return seed_;
  }
  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(state.numel() == 16 && state.is_cpu(), settings().vendor, ": a generator's state is 16 bytes of the host");
    const auto* numbers = static_cast<const uint64_t*>(state.data());
    seed_ = numbers[0];
    if (!has_defect("rng_state.no_offset")) offset_ = numbers[1];
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto state = at::empty({16}, at::kByte);
    auto* numbers = static_cast<uint64_t*>(state.mutable_data_ptr());
    numbers[0] = seed_;
    numbers[1] = offset_;
    return state.getIntrusivePtr();
  }
  Generator* clone_impl() const override {
    auto* twin = new Generator(device_.index());
    twin->seed_ = seed_;
    twin->offset_ = offset_;
    return twin;
  }
};

at::Generator& generator_of(c10::DeviceIndex index) {
  static std::vector<at::Generator> all = [] {
    std::vector<at::Generator> made;
    for (int i = 0; i < MOST_DEVICES; i++) made.push_back(at::make_generator<Generator>(static_cast<c10::DeviceIndex>(i)));
    return made;
  }();
  return all[static_cast<size_t>(index)];
}

// A generator of the processor for one operator that draws so many numbers.
at::Generator draw(at::Generator generator, int64_t numel) {
  auto* ours = static_cast<Generator*>(generator.unsafeGetGeneratorImpl());
  std::lock_guard<std::mutex> mine(ours->mutex_);
  uint64_t mixed = ours->seed_ * 0x9E3779B97F4A7C15ull + ours->offset_;
  mixed = (mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9ull;
  if (!has_defect("chance.stands_still")) ours->offset_ += static_cast<uint64_t>(numel + 3) / 4 * 4;
  return at::detail::createCPUGenerator(mixed ^ (mixed >> 29));
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return settings().num_devices > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  void init() const override {}
  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(settings().num_devices); }
  void setCurrentDevice(c10::DeviceIndex index) const override { enter_device(index); }
  c10::DeviceIndex getCurrentDevice() const override { return current_device(); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const auto before = current_device();
    set_current_device(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? current_device() : exchangeDevice(index);
  }
  bool isPinnedPtr(const void* address) const override { return is_pinned(address); }
  at::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  at::Device getDeviceFromPtr(void*) const override { return {DEVICE, current_device()}; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return generator_of(index < 0 ? current_device() : index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? current_device() : index);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    const c10::DeviceGuard there(storage.device());
    auto grown = allocator()->allocate(size);
    run(current_stream(storage.device().index()));
    const auto kept = std::min<size_t>(storage.nbytes(), size);
    if (kept > 0) memcpy(host_address(grown.get()), host_address(storage.data()), kept);
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(grown));
    storage.unsafeGetStorageImpl()->set_nbytes(size);
  }
};

void register_hooks() {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

}  // namespace simdev
