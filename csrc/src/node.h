/* The options of a node while it is opened. */
#ifndef MODELBOX_NODE_H
#define MODELBOX_NODE_H

#include <stdint.h>

struct mb_config {
  const char *const *keys;
  const char *const *values;
  uint32_t count;
};

#endif
