/* Which kernels run here: the table of all kernels in this build, the slowest first. */
#include "dn_impl.h"

#include <string.h>

#ifdef DN_X86
#include <cpuid.h>

/* Intel's manual, volume 1, 13.3: XCR0 tells which registers the system saves, 6 = SSE and AVX, 0xe0 = AVX-512. */
int dn_x86_has(int features) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    int found = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (low & 0x06) != 0x06) return 0;
    if (b & bit_AVX2) found |= DN_AVX2;
    if ((low & 0xe0) == 0xe0) {
        const unsigned base = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
        if ((b & base) == base) found |= DN_AVX512;
        if (c & bit_AVX512VBMI) found |= DN_AVX512_VBMI;
    }
    return (found & features) == features;
}
#endif

static const dn_kernels *const table[] = {
    &dn_kernels_portable,
#ifdef DN_X86
    &dn_kernels_avx2,
    &dn_kernels_avx512,
    &dn_kernels_avx512vbmi,
#endif
#ifdef DN_NEON
    &dn_kernels_neon,
#endif
#ifdef DN_NEON_DOT
    &dn_kernels_neondot,
#endif
};

enum { TABLE_LENGTH = sizeof table / sizeof table[0] };

const dn_kernels *dn_kernels_best(void) {
    size_t i = TABLE_LENGTH - 1;
    while (i && !table[i]->runs_here()) i--;
    return table[i];
}

const dn_kernels *dn_kernels_find(const char *name) {
    for (size_t i = 0; i < TABLE_LENGTH; i++)
        if (!strcmp(table[i]->name, name) && table[i]->runs_here()) return table[i];
    return NULL;
}

const char *dn_kernels_name(size_t index) { return index < TABLE_LENGTH ? table[index]->name : NULL; }

int dn_kernels_run_here(size_t index) { return index < TABLE_LENGTH && table[index]->runs_here(); }

const char *dn_model_kernels(const dn_model *model) { return model->kernels->name; }

dn_status dn_model_use_kernels(dn_model *model, const char *name) {
    if (!model || !name) return DN_NULL_ARGUMENT;
    const dn_kernels *kernels = dn_kernels_find(name);
    if (!kernels) return DN_UNKNOWN_KERNELS;
    model->kernels = kernels;
    model->prepared = NULL;
    return DN_OK;
}
