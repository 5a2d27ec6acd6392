/* A fake libnvidia-ml.so.1, which the real pynvml loads.
 *
 * The file that FAKE_NVML names says what it plays; it is read anew at every call. One line each:
 *
 *   gpus N             so many GPUs (0)
 *   fail init CODE     nvmlInit fails
 *   fail FUNCTION CODE every call of count, handle, uuid, memory, memory2, utilization or mig fails
 *   lost GPU           its handle cannot be had any more
 *   fallen GPU         its handle can be had, but whatever is asked of it fails: it is lost
 *   used GPU BYTES, reserved GPU BYTES, utilization GPU PERCENT
 *   mig GPU PLACES     MIG is on; every odd place is empty
 *   hang FUNCTION      such a call comes back when the line is gone, after 20 s at the latest
 *   restart N          the driver was restarted N times: calls fail until the next nvmlInit
 *   log PATH           where every nvmlInit and nvmlShutdown writes a line
 *
 * A GPU has 1000 bytes, and a MIG device 100 for each (place + 1), half of which are used.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };

typedef struct { int gpu, place; } Device; /* place -1: the whole GPU */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;

static Device devices[64][17];
static long long initialized = -1; /* the restart that nvmlInit saw; -1: none */

/* Find the line that starts with `key`, and give the number after it, or `otherwise`. */
static long long setting(const char *key, long long otherwise) {
  char line[256];
  const char *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "r") : NULL;
  size_t length = strlen(key);
  if (!file) return otherwise;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, key, length) || !strchr(" \n", line[length])) continue;
    otherwise = strtoll(line + length, NULL, 10);
    break;
  }
  fclose(file);
  return otherwise;
}

static long long of_gpu(const char *key, int gpu, long long otherwise) {
  char full[64];
  snprintf(full, sizeof full, "%s %d", key, gpu);
  return setting(full, otherwise);
}

static void note(const char *text) {
  char line[256];
  FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
  if (!file) return;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, "log ", 4)) continue;
    line[strcspn(line, "\n")] = 0;
    FILE *log = fopen(line + 4, "a");
    if (log) { fprintf(log, "%s\n", text); fclose(log); }
  }
  fclose(file);
}

/* What every call does first: hang, or fail, as it is told. */
static int enter(const char *function) {
  char key[64];
  snprintf(key, sizeof key, "hang %s", function);
  for (int i = 0; i < 2000 && setting(key, -1) != -1; i++) usleep(10000);
  snprintf(key, sizeof key, "fail %s", function);
  if (initialized != setting("restart", 0)) return UNINITIALIZED;
  return (int)setting(key, SUCCESS);
}

static int ask(const char *function, const Device *device) {
  int result = enter(function);
  if (result) return result;
  return of_gpu("fallen", device->gpu, -1) != -1 ? LOST : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  note("init");
  int result = (int)setting("fail init", SUCCESS);
  if (result) return result;
  initialized = setting("restart", 0);
  return SUCCESS;
}

int nvmlShutdown(void) {
  note("shutdown");
  if (initialized != setting("restart", 0)) return UNINITIALIZED;
  initialized = -1;
  return SUCCESS;
}

const char *nvmlErrorString(int result) { (void)result; return "a fake error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
  int result = enter("count");
  if (!result) *count = (unsigned)setting("gpus", 0);
  return result;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
  int result = enter("handle");
  if (result) return result;
  if (index >= 64 || index >= setting("gpus", 0)) return INVALID;
  if (of_gpu("lost", (int)index, -1) != -1) return LOST;
  *device = &devices[index][16];
  **device = (Device){(int)index, -1};
  return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned length) {
  int result = ask("uuid", device);
  if (result) return result;
  if (device->place < 0) snprintf(uuid, length, "GPU-0000000%d", device->gpu);
  else snprintf(uuid, length, "MIG-0000000%d-%d", device->gpu, device->place);
  return SUCCESS;
}

int nvmlDeviceGetName(Device *device, char *name, unsigned length) {
  int result = ask("name", device);
  if (!result) snprintf(name, length, device->place < 0 ? "Fake H100" : "Fake H100 MIG 1g");
  return result;
}

static unsigned long long total_of(const Device *device) {
  return device->place < 0 ? 1000 : 100ULL * (unsigned)(device->place + 1);
}

static unsigned long long used_of(const Device *device) {
  return device->place < 0 ? (unsigned long long)of_gpu("used", device->gpu, 0) : total_of(device) / 2;
}

static unsigned long long reserved_of(const Device *device) {
  return device->place < 0 ? (unsigned long long)of_gpu("reserved", device->gpu, 0) : 0;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
  int result = ask("memory", device);
  if (result) return result;
  memory->total = total_of(device);
  memory->used = used_of(device) + reserved_of(device);
  memory->free = memory->total - memory->used;
  return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory2 *memory) {
  int result = ask("memory", device);
  if (!result) result = (int)setting("fail memory2", SUCCESS);
  if (result) return result;
  if (memory->version != (2u << 24 | sizeof *memory)) return 25;
  memory->total = total_of(device);
  memory->used = used_of(device);
  memory->reserved = reserved_of(device);
  memory->free = memory->total - memory->used - memory->reserved;
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
  int result = ask("utilization", device);
  if (result) return result;
  if (device->place >= 0 || of_gpu("mig", device->gpu, -1) != -1) return NOT_SUPPORTED;
  rates->gpu = (unsigned)of_gpu("utilization", device->gpu, 0);
  rates->memory = 0;
  return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
  int result = ask("mig", device);
  if (result) return result;
  *current = *pending = of_gpu("mig", device->gpu, -1) != -1;
  return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
  *count = (unsigned)of_gpu("mig", device->gpu, 0);
  return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **part) {
  if (index >= 16 || index >= of_gpu("mig", device->gpu, 0)) return INVALID;
  if (index % 2) return NOT_FOUND;
  *part = &devices[device->gpu][index];
  **part = (Device){device->gpu, (int)index};
  return SUCCESS;
}
