/* Kernels for 64-bit ARM with dot products (UDOT; ARMv8.2 and later, most of them). */
#include "dn_impl.h"

#ifdef DN_NEON_DOT
#ifdef __ARM_FEATURE_DOTPROD
#define DN_ALWAYS /* the whole program needs them: asked here, because the pragmas below define the macro as well */
#elif !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#else
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#endif
#include <arm_neon.h>

enum { COLUMNS = 8, DOT_INSTRUCTIONS = 1 };
#define EACH_OF(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7)

typedef uint32x4_t dot;

static inline dot d_zero(void) { return vdupq_n_u32(0); }
static inline dot d_add(dot sums, uint8x16_t w, uint8x16_t x) { return vdotq_u32(sums, w, x); }
#define d_add_lane(sums, w, x, lane) vdotq_laneq_u32(sums, w, x, lane)
static inline uint32x4_t d_result(dot sums) { return sums; }

#include "dn_kernels_neon.h"

#if !defined(DN_ALWAYS) && !defined(__clang__)
#pragma GCC pop_options
#elif !defined(DN_ALWAYS)
#pragma clang attribute pop
#endif

#if defined(DN_ALWAYS)
static int runs_here(void) { return 1; }
#elif defined(__linux__)
#include <sys/auxv.h>

static int runs_here(void) { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; } /* HWCAP_ASIMDDP */
#else
static int runs_here(void) { return 0; }
#endif

const dn_kernels dn_kernels_neondot = {"neondot", runs_here, layout, prepared_bytes, prepare, scratch_bytes, conv_rows, describe, spin};
#endif
