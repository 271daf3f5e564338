/* What the tests of several subjects use. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <string.h>

#include "check.h"
#include "internal.h"

extern mb_error error; /* of the last call that failed; threads have their own */

/* A pool that checks every guard, with arenas of 4 MiB; max_bytes 0 = no limit. */
mb_pool *new_pool(uint64_t max_bytes);
/* The same numbers in every run, 24 bits each. */
uint32_t next_random(uint32_t *state);
/* Ten buffers, an error in place 2 and a placeholder in place 5. */
mb_list *mixed_list(mb_pool *pool);
mb_node *open_node(mb_pool *pool, const mb_unit *unit, const char *name, uint32_t batch);

extern const mb_port in_port[1], out_port[1];

#define UNIT(name, process)                                                                                        \
  {                                                                                                                \
    sizeof(mb_unit), 0, name, "cpu", "1.0.0", name, "Generic", in_port, 1, out_port, 1, NULL, 0, 0, 0, NULL, NULL, \
        process, NULL, NULL                                                                                        \
  }

extern const mb_unit pass_unit; /* gives back what it gets */
/* As the process() of a unit. */
int32_t pass(const mb_host *host, void *state, mb_call *call);

/* Two pools with a link between them. */
typedef struct pair {
  mb_pool *here, *there;
  mb_peer *sender, *receiver;
} pair;

pair new_pair(void);
void free_pair(pair *made);
/* mixed_list() and a buffer of 50000 bytes with a meta, in place 10. */
mb_list *peer_list(mb_pool *pool);
/* `from` tells `to` what it is done with. */
void give_back(mb_peer *from, mb_peer *to);

void test_pools(void);
void test_metas(void);
void test_list_functions(void);
void test_segments(void);
void test_peer_links(void);
void test_message_formats(void);
void test_threads(void);

#endif
