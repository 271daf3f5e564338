/* The functions of blocks.c for the module that objects.c makes. */
#ifndef MODELBOX_BLOCKS_H
#define MODELBOX_BLOCKS_H

extern PyMethodDef mb_block_functions[];

#endif
