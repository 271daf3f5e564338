/* Tests of the C core, built under sanitizers: `core` runs everything, `core threads` what runs on several threads. */
#include "support.h"

int main(int argc, char **argv) {
  test_threads();
  if (argc > 1 && strcmp(argv[1], "threads") == 0) {
    puts("core: threads passed");
    return 0;
  }
  test_pools();
  test_metas();
  test_list_functions();
  test_segments();
  test_peer_links();
  test_message_formats();
  puts("core: all passed");
  return 0;
}
