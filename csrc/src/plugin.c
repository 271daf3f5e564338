/* Loading plugins, and nodes: a unit opened with options. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"
#include "node.h"

struct mb_library {
  const mb_plugin *plugin;
};

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#else
#define MACHINE EM_NONE
#endif

static const char *machine_name(uint16_t machine) {
  switch (machine) {
    case EM_X86_64:
      return "x86-64";
    case EM_AARCH64:
      return "aarch64";
    case EM_386:
      return "i386";
    case EM_ARM:
      return "arm";
    case EM_RISCV:
      return "riscv";
    default:
      return "another machine";
  }
}

/* The loader's own words for a damaged file are hard to read, and mapping one can kill the process. */
static int32_t check_file(const char *path, mb_error *error) {
  Elf64_Ehdr header;
  struct stat status;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return mb__fail(error, MB_NOENT, "%s: cannot be read: %s", path, strerror(errno));
  ssize_t got = pread(fd, &header, sizeof header, 0);
  bool known = fstat(fd, &status) == 0;
  close(fd);
  if (got < 4 || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return mb__fail(error, MB_INVALID, "%s: is no shared library", path);
  }
  if (got < (ssize_t)sizeof header || !known) return mb__fail(error, MB_INVALID, "%s: is truncated", path);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || (MACHINE != EM_NONE && header.e_machine != MACHINE)) {
    return mb__fail(error, MB_INVALID, "%s: is for %s, this machine is %s", path, machine_name(header.e_machine),
                    machine_name(MACHINE));
  }
  if (header.e_type != ET_DYN) return mb__fail(error, MB_INVALID, "%s: is no shared library", path);
  /* The section table ends a library as linkers write it: if it is not all there, the file was cut off. */
  uint64_t end = header.e_shoff + (uint64_t)header.e_shnum * header.e_shentsize;
  if ((uint64_t)status.st_size < end) return mb__fail(error, MB_INVALID, "%s: is truncated", path);
  return 0;
}

static bool ports_hold(const mb_port *ports, uint32_t count) {
  if (count > 0 && ports == NULL) return false;
  for (uint32_t at = 0; at < count; at++) {
    if (ports[at].name == NULL || ports[at].name[0] == '\0') return false;
    for (uint32_t other = 0; other < at; other++) {
      if (strcmp(ports[at].name, ports[other].name) == 0) return false;
    }
  }
  return true;
}

#define HAS_FIELD(object, type, field) ((object)->struct_size >= offsetof(type, field) + sizeof((object)->field))

static int32_t check_unit(const char *path, const mb_unit *unit, mb_error *error) {
  if (unit == NULL || !HAS_FIELD(unit, mb_unit, process)) {
    return mb__fail(error, MB_INVALID, "%s: has a unit description that is too short", path);
  }
  const char *name = unit->name != NULL ? unit->name : "";
  if (name[0] == '\0' || unit->device == NULL || unit->device[0] == '\0') {
    return mb__fail(error, MB_INVALID, "%s: has a unit without name or device", path);
  }
  if (unit->process == NULL) return mb__fail(error, MB_INVALID, "%s: unit '%s' has no process function", path, name);
  if (!ports_hold(unit->inputs, unit->input_count) || !ports_hold(unit->outputs, unit->output_count)) {
    return mb__fail(error, MB_INVALID, "%s: unit '%s' has ports without name or with the same name", path, name);
  }
  if (unit->input_count + unit->output_count == 0) {
    return mb__fail(error, MB_INVALID, "%s: unit '%s' has no ports", path, name);
  }
  for (uint32_t at = 0; at < unit->option_count; at++) {
    if (unit->options == NULL || unit->options[at].name == NULL) {
      return mb__fail(error, MB_INVALID, "%s: unit '%s' has an option without name", path, name);
    }
  }
  return 0;
}

static int32_t check_plugin(const char *path, const mb_plugin *plugin, mb_error *error) {
  if (plugin == NULL || !HAS_FIELD(plugin, mb_plugin, unit_count)) {
    return mb__fail(error, MB_INVALID, "%s: has a plugin description that is too short", path);
  }
  if (plugin->abi_major != MB_ABI_MAJOR) {
    return mb__fail(error, MB_NOTSUPPORT, "%s: was built for plugin ABI %u, this modelbox has %u; build it again", path,
                    plugin->abi_major, MB_ABI_MAJOR);
  }
  if (plugin->unit_count == 0 || plugin->units == NULL) return mb__fail(error, MB_INVALID, "%s: holds no units", path);
  for (uint32_t at = 0; at < plugin->unit_count; at++) {
    int32_t status = check_unit(path, plugin->units[at], error);
    if (status != 0) return status;
  }
  return 0;
}

mb_library *mb_library_open(const char *path, mb_error *error) {
  if (check_file(path, error) != 0) return NULL;
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    mb__fail(error, MB_INVALID, "%s: cannot be loaded: %s", path, dlerror());
    return NULL;
  }
  const mb_plugin *(*entry)(void);
  *(void **)&entry = dlsym(handle, "mb_plugin_entry_v1");
  if (entry == NULL) {
    mb__fail(error, MB_INVALID, "%s: is no modelbox plugin: it does not export mb_plugin_entry_v1", path);
    return NULL;
  }
  const mb_plugin *plugin = entry();
  if (check_plugin(path, plugin, error) != 0) return NULL;
  mb_library *library = calloc(1, sizeof *library);
  if (library == NULL) {
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  library->plugin = plugin;
  return library;
}

const mb_plugin *mb_library_plugin(const mb_library *library) { return library->plugin; }

mb_node *mb_node_open(mb_pool *pool, const mb_unit *unit, const char *name, const char *const *keys,
                      const char *const *values, uint32_t option_count, uint32_t batch_size, mb_error *error) {
  mb_node *node = calloc(1, sizeof *node);
  if (node == NULL || (node->account = mb__account_new(name)) == NULL) {
    free(node);
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  node->unit = unit;
  node->pool = pool;
  node->flags = unit->flags;
  node->batch_size = batch_size > 0 ? batch_size : 1;
  node->visible = unit->flags & MB_UNIT_SEES_ERRORS ? 1 : 0;
  snprintf(node->name, sizeof node->name, "%s", name);
  mb_config config = {keys, values, option_count};
  mb__clear_error();
  int32_t status = unit->open != NULL ? unit->open(&mb__host, &config, &node->state) : 0;
  if (status != 0) {
    const char *why = mb__take_error();
    mb__fail(error, status < 0 && status >= -MB_IO ? -status : MB_FAULT, "node '%s': unit '%s' did not open: %s", name,
             unit->name, why != NULL ? why : "it gave no reason");
    mb__account_unref(node->account);
    free(node);
    return NULL;
  }
  return node;
}

void mb_node_set_level(mb_node *node, int32_t sees_errors, uint32_t depth, uint32_t out_depth) {
  node->visible = sees_errors ? depth + 1 : 0;
  node->out_depth = out_depth;
}

void mb_node_close(mb_node *node) {
  if (node == NULL) return;
  if (node->unit->close != NULL) node->unit->close(&mb__host, node->state);
  mb__account_unref(node->account);
  free(node);
}

void mb_node_get_stats(const mb_node *node, mb_node_stats *stats) {
  stats->calls = atomic_load(&node->calls);
  stats->buffers_in = atomic_load(&node->buffers_in);
  stats->buffers_out = atomic_load(&node->buffers_out);
  stats->errors = atomic_load(&node->errors);
  stats->busy_ns = atomic_load(&node->busy_ns);
  stats->live_bytes = atomic_load(&node->account->live);
  stats->peak_bytes = atomic_load(&node->account->peak);
  stats->guard_faults = atomic_load(&node->account->guard_faults);
}
