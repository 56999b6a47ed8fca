/* memory.h - what cuda_backend.c sees of memory.c: the registry of one device's segments. */
#pragma once

#include <pthread.h>

#include "cuda_backend.h"
#include "device.h"
#include "work.h"

struct cuda_memory {
    struct cuda_device *device;
    struct cuda_work *work; /* scrubs */
    pthread_mutex_t lock;   /* the lists; held through a free (it waits for the stream) and an open */
    struct kernel_segment *segments, *refused;
};

void cuda_memory_init(struct cuda_memory *m, struct cuda_device *device, struct cuda_work *work);
/* Frees what was refused as far as it can; nothing else may be left. */
void cuda_memory_deinit(struct cuda_memory *m);

int cuda_segment_new(struct cuda_memory *m, enum kernel_access access, size_t bytes, struct kernel_segment **ret);
void cuda_segment_free(struct cuda_memory *m, struct kernel_segment *s);
/* Tries again what was refused; false if an import is still open that was freed. */
bool cuda_memory_closed(struct cuda_memory *m);
int cuda_segment_export(struct cuda_memory *m, struct kernel_segment *s, struct kernel_handle *ret);
int cuda_segment_import(struct cuda_memory *m, enum kernel_access access, const struct kernel_handle *handle,
                        size_t bytes, struct kernel_segment **ret);
void *cuda_segment_address(struct kernel_segment *s);

struct kernel_cuda_memory cuda_memory_count(struct cuda_memory *m);
