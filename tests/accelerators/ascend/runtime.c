/* What torch_npu asks of CANN's runtime before anything computes: devices that hold host memory and queues that have
   done all at once. Every other call is answered with 0, which is success, by what stubs.py writes. */

#include <stdlib.h>
#include <string.h>

static const size_t ALIGNMENT = 512, MEMORY = 64ull << 30;
static _Thread_local int device;

int aclrtGetDeviceCount(unsigned *count) {
  const char *said = getenv("STUB_NPUS");
  *count = said ? (unsigned)atoi(said) : 0;
  return 0;
}

int aclrtSetDevice(int index) { device = index; return 0; }
int aclrtGetDevice(int *index) { *index = device; return 0; }
const char *aclrtGetSocName(void) { return "Ascend910B2"; }

static int take(void **place, size_t size) { return posix_memalign(place, ALIGNMENT, size ? size : ALIGNMENT); }
int aclrtMalloc(void **place, size_t size, int policy) { return take(place, size); }
int aclrtMallocAlign32(void **place, size_t size, int policy) { return take(place, size); }
int aclrtMallocHost(void **place, size_t size) { return take(place, size); }
int aclrtFree(void *place) { free(place); return 0; }
int aclrtFreeHost(void *place) { free(place); return 0; }

int aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int kind) { memmove(to, from, size); return 0; }
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int kind, void *queue) {
  memmove(to, from, size);
  return 0;
}

int aclrtGetMemInfo(int kind, size_t *left, size_t *all) { *left = *all = MEMORY; return 0; }

/* Handles that are told apart by their addresses. */
int aclrtCreateStream(void **queue) { return take(queue, 1); }
int aclrtCreateStreamWithConfig(void **queue, unsigned priority, unsigned flags) { return take(queue, 1); }
int aclrtCreateEvent(void **event) { return take(event, 1); }
int aclrtCreateEventWithFlag(void **event, unsigned flags) { return take(event, 1); }
int aclrtCreateContext(void **context, int index) { return take(context, 1); }
int aclrtGetCurrentContext(void **context) { static int only; *context = &only; return 0; }

/* Options of a compiler: each is one. */
size_t aclGetCompileoptSize(int option) { return 256; }
int aclGetCompileopt(int option, char *value, size_t room) { memset(value, 0, room); value[0] = '1'; return 0; }
