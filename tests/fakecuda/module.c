/* module.c - images of kernels: which are accepted, and which kernels are in them. */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/launch.h"
#include "emulation/emulator.h"
#include "fake.h"

static const char *const names[] = {
#define FAKE_NAME(kernel, parameter) #kernel,
    CUDA_KERNELS(FAKE_NAME)
#undef FAKE_NAME
};
#define KERNELS (sizeof names / sizeof *names)

/* Never freed, so that a use after the end is seen. */
struct CUmod_st {
    struct CUmod_st *next;
    bool live;
    unsigned queued;
    struct CUfunc_st functions[KERNELS];
};
static struct CUmod_st *modules;

/* ---------- images ---------- */

#define TEXT "scissord-emulated\n"

struct fat_header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes; /* that follow: entries */
};
#define FAT_MAGIC 0xba55ed50u

struct fat_entry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t other[3];
    uint32_t capability;
};
#define FAT_PTX 1
#define FAT_CUBIN 2

/* Where names are looked for. */
struct span {
    const char *at;
    size_t bytes;
};

/* The cubin for this device, else the whole if it has PTX for it: PTX is compressed, so its names are only there if the
 * tool was told to leave it as it is. */
static cuda_result fat_find(const char *image, struct span *ret) {
    struct fat_header header;
    struct fat_entry e;
    bool ptx = false;
    memcpy(&header, image, sizeof header);
    const char *at = image + header.header_bytes, *end = at + header.bytes;
    for (; (size_t)(end - at) >= sizeof e; at += e.header_bytes + e.bytes) {
        memcpy(&e, at, sizeof e);
        if (e.header_bytes < sizeof e || e.bytes > (size_t)(end - at) - e.header_bytes)
            return CUDA_INVALID_IMAGE;
        if (e.kind == FAT_CUBIN && e.capability / 10 == FAKE_CAPABILITY / 10 && e.capability <= FAKE_CAPABILITY) {
            *ret = (struct span){at + e.header_bytes, e.bytes};
            return 0;
        }
        ptx = ptx || (e.kind == FAT_PTX && e.capability <= FAKE_CAPABILITY);
    }
    *ret = (struct span){image, header.header_bytes + header.bytes};
    return ptx ? 0 : CUDA_NO_BINARY_FOR_GPU;
}

/* A cubin ends with its section headers or its program headers. */
static cuda_result elf_find(const char *image, struct span *ret) {
    Elf64_Ehdr h;
    memcpy(&h, image, sizeof h);
    if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_CUDA)
        return CUDA_INVALID_IMAGE;
    size_t sections = h.e_shoff + (size_t)h.e_shnum * h.e_shentsize;
    size_t segments = h.e_phoff + (size_t)h.e_phnum * h.e_phentsize;
    *ret = (struct span){image, sections > segments ? sections : segments};
    return 0;
}

static cuda_result image_find(const char *image, struct span *ret) {
    static const uint32_t fat = FAT_MAGIC;
    if (!memcmp(image, &fat, sizeof fat))
        return fat_find(image, ret);
    if (!memcmp(image, ELFMAG, SELFMAG))
        return elf_find(image, ret);
    if (strncmp(image, TEXT, strlen(TEXT)))
        return CUDA_INVALID_IMAGE;
    *ret = (struct span){image, strlen(image)};
    return 0;
}

static bool in_name(char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* As a whole word. */
static bool span_has(struct span image, const char *name) {
    const char *at = image.at, *end = at + image.bytes;
    size_t length = strlen(name);
    for (; (at = memmem(at, (size_t)(end - at), name, length)); at++)
        if ((at == image.at || !in_name(at[-1])) && (at + length == end || !in_name(at[length])))
            return true;
    return false;
}

/* ---------- modules ---------- */

cuda_result cuModuleLoadData(cuda_module *ret, const void *image) {
    struct span span;
    FAKE_ENTER(cuModuleLoadData, true);
    cuda_result code = image ? image_find(image, &span) : CUDA_INVALID_VALUE;
    if (code)
        return code;
    struct CUmod_st *m = calloc(1, sizeof *m);
    if (!m)
        return CUDA_OUT_OF_MEMORY;
    m->live = true;
    for (unsigned i = 0; i < KERNELS; i++)
        m->functions[i] = (struct CUfunc_st){m, span_has(span, names[i]) ? emulator_find(names[i]) : NULL};
    fake_lock();
    m->next = modules;
    modules = m;
    fake_unlock();
    *ret = m;
    return 0;
}

/* Under the lock. */
static void must_live(const struct CUmod_st *m, const char *call) {
    if (!m->live)
        fake_break(FAKE_RULE_use_after_unload, call, 0);
}

cuda_result cuModuleUnload(cuda_module m) {
    FAKE_ENTER(cuModuleUnload, true);
    if (!m)
        return CUDA_INVALID_HANDLE;
    fake_lock();
    must_live(m, "cuModuleUnload");
    if (m->queued)
        fake_break(FAKE_RULE_unload_queued, "cuModuleUnload", 0);
    m->live = false;
    fake_unlock();
    return 0;
}

cuda_result cuModuleGetFunction(cuda_function *ret, cuda_module m, const char *name) {
    FAKE_ENTER(cuModuleGetFunction, true);
    if (!m || !name)
        return CUDA_INVALID_VALUE;
    fake_lock();
    must_live(m, "cuModuleGetFunction");
    fake_unlock();
    for (unsigned i = 0; i < KERNELS; i++)
        if (m->functions[i].kernel && !strcmp(names[i], name)) {
            *ret = &m->functions[i];
            return 0;
        }
    return CUDA_NOT_FOUND;
}

void fake_module_queue(struct CUmod_st *m, int more) {
    if (more > 0)
        must_live(m, "cuLaunchKernel");
    m->queued += (unsigned)more;
}
