// What training on a CPU needs and torch does slowly: 2x2 max-pooling that remembers where each maximum was, its gradient, and the gradient of
// the first layer's weights. Maps are `(photos, rows, columns, channels)`, channels in groups of GROUP. `dupnet.nn.mixed` calls this.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

constexpr size_t GROUP = 8, PLACES = 9, COLOURS = 3;

template <class T>
using Map = nb::ndarray<T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

// GROUP numbers in a vector register. Plain memory to look at, so any alignment and type will do.
typedef float Floats __attribute__((vector_size(32), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(32), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(32), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(16), aligned(2)));
typedef uint8_t Bytes __attribute__((vector_size(8), aligned(1)));
typedef float Row __attribute__((vector_size(64), aligned(4)));  // the PLACES numbers of a row of a 3x3x3 kernel, and what lies behind them

template <class V, class T>
inline auto &at(T *p) {
    return *reinterpret_cast<V *>(p);
}

template <class V, class T>
inline const auto &at(const T *p) {
    return *reinterpret_cast<const V *>(p);
}

// Do `count` tasks, each thread its share in one piece.
template <class Task>
void share(size_t count, int threads, Task task) {
    size_t pieces = std::min(count, static_cast<size_t>(std::max(threads, 1)));
    auto piece = [&](size_t p) {
        for (size_t i = count * p / pieces; i < count * (p + 1) / pieces; i++) task(i);
    };
    auto run = [](void *context, int p) { (*static_cast<decltype(piece) *>(context))(static_cast<size_t>(p)); };
    if (pieces == 1) run(&piece, 0);
    if (pieces > 1) dupnet::Pool::run(nullptr, static_cast<int>(pieces), run, &piece);
}

// One row of maxima from two rows `a`, `b`. Of equal numbers the first counts, in reading order, as in torch.
FOR_EACH_PROCESSOR void pool_row(const float *a, const float *b, size_t columns, size_t channels, float *pooled, uint8_t *place) {
    for (size_t x = 0; x < columns; x++, a += 2 * channels, b += 2 * channels)
        for (size_t k = 0; k < channels; k += GROUP, pooled += GROUP, place += GROUP) {
            Floats a0 = at<Floats>(a + k), a1 = at<Floats>(a + channels + k), b0 = at<Floats>(b + k), b1 = at<Floats>(b + channels + k);
            Ints right = a1 > a0, right_below = b1 > b0;
            Floats above = right ? a1 : a0, below = right_below ? b1 : b0;
            Ints lower = below > above;
            at<Floats>(pooled) = lower ? below : above;
            at<Bytes>(place) = __builtin_convertvector(lower ? 2 + (right_below & 1) : right & 1, Bytes);
        }
}

// The other way: each gradient, rounded to bfloat16 (nearest, ties to even), to where its maximum was, zeros elsewhere.
FOR_EACH_PROCESSOR void unpool_row(const float *gradient, const uint8_t *place, size_t columns, size_t channels, uint16_t *a, uint16_t *b) {
    for (size_t x = 0; x < columns; x++, a += 2 * channels, b += 2 * channels)
        for (size_t k = 0; k < channels; k += GROUP, gradient += GROUP, place += GROUP) {
            Bits bits = at<Bits>(gradient);
            Halves value = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
            Halves where = __builtin_convertvector(at<Bytes>(place), Halves);
            at<Halves>(a + k) = where == 0 ? value : Halves{};
            at<Halves>(a + channels + k) = where == 1 ? value : Halves{};
            at<Halves>(b + k) = where == 2 ? value : Halves{};
            at<Halves>(b + channels + k) = where == 3 ? value : Halves{};
        }
}

// Add what one row of pooled gradients says about GROUP filters of the first layer: only the pixels below each maximum count, a quarter
// of what a convolution would multiply. `rows` holds the photo as floats with a border of zeros; `sums` is [GROUP][3][PLACES].
FOR_EACH_PROCESSOR void first_row(const float *rows, size_t pitch, const float *gradient, const uint8_t *place, size_t columns, size_t channels,
                                  float *sums) {
    const size_t starts[4] = {0, COLOURS, pitch, pitch + COLOURS};
    Row sum[GROUP][3] = {};
    for (size_t x = 0; x < columns; x++, rows += 2 * COLOURS, gradient += channels, place += channels)
#pragma GCC unroll 8
        for (size_t k = 0; k < GROUP; k++) {
            const float *p = rows + starts[place[k]];
            for (size_t r = 0; r < 3; r++) sum[k][r] += gradient[k] * at<Row>(p + r * pitch);
        }
    for (size_t k = 0; k < GROUP; k++)
        for (size_t r = 0; r < 3; r++)
            for (size_t i = 0; i < PLACES; i++) sums[(k * 3 + r) * PLACES + i] += sum[k][r][i];
}

template <class A, class B>
void check(const Map<A> &full, const Map<B> &pooled) {
    if (full.shape(0) != pooled.shape(0) || full.shape(1) != 2 * pooled.shape(1) || full.shape(2) != 2 * pooled.shape(2))
        throw std::invalid_argument("the pooled map must have half the rows and columns of the other");
    if (pooled.shape(3) % GROUP) throw std::invalid_argument("the number of channels must be a multiple of 8");
}

template <class A, class B>
void check_equal(const Map<A> &a, const Map<B> &b) {
    for (size_t i = 0; i < 4; i++)
        if (a.shape(i) != b.shape(i)) throw std::invalid_argument("the two pooled maps must have the same shape");
}

void pool(Map<const float> map, Map<float> pooled, Map<uint8_t> place, int threads) {
    check(map, pooled), check_equal(pooled, place);
    if (map.shape(3) != pooled.shape(3)) throw std::invalid_argument("the maps must have the same number of channels");
    nb::gil_scoped_release release;
    size_t rows = pooled.shape(1), columns = pooled.shape(2), channels = pooled.shape(3), row = columns * channels;
    share(pooled.shape(0) * rows, threads, [&](size_t y) {
        const float *a = map.data() + 4 * y * row;
        pool_row(a, a + 2 * row, columns, channels, pooled.data() + y * row, place.data() + y * row);
    });
}

void unpool(Map<const float> gradient, Map<const uint8_t> place, Map<uint16_t> map, int threads) {
    check(map, gradient), check_equal(gradient, place);
    if (map.shape(3) != gradient.shape(3)) throw std::invalid_argument("the maps must have the same number of channels");
    nb::gil_scoped_release release;
    size_t rows = gradient.shape(1), columns = gradient.shape(2), channels = gradient.shape(3), row = columns * channels;
    share(gradient.shape(0) * rows, threads, [&](size_t y) {
        uint16_t *a = map.data() + 4 * y * row;
        unpool_row(gradient.data() + y * row, place.data() + y * row, columns, channels, a, a + 2 * row);
    });
}

void first_gradient(Map<const uint8_t> photos, Map<const float> gradient, Map<const uint8_t> place, Map<float> weights, int threads) {
    check(photos, gradient), check_equal(gradient, place);
    size_t count = photos.shape(0), rows = gradient.shape(1), columns = gradient.shape(2), channels = gradient.shape(3);
    if (photos.shape(3) != COLOURS || weights.shape(0) != channels || weights.shape(1) * weights.shape(2) * weights.shape(3) != 3 * PLACES)
        throw std::invalid_argument("the first layer has 3x3 kernels over 3 colours, (filters, 3, 3, 3)");
    nb::gil_scoped_release release;
    size_t width = photos.shape(2) * COLOURS, pitch = width + 2 * COLOURS, filter = 3 * PLACES, all = channels * filter;
    std::vector<float> sums(count * all);  // each photo's by itself, so that the number of threads does not change the order of the sums
    share(count, threads, [&](size_t n) {
        std::vector<float> bordered((2 * rows + 2) * pitch + sizeof(Row) / sizeof(float));
        for (size_t y = 0; y < 2 * rows; y++)
            for (size_t i = 0; i < width; i++) bordered[(y + 1) * pitch + COLOURS + i] = photos.data()[(n * 2 * rows + y) * width + i];
        for (size_t y = 0; y < rows; y++)
            for (size_t k = 0; k < channels; k += GROUP) {
                size_t from = (n * rows + y) * columns * channels + k;
                first_row(&bordered[2 * y * pitch], pitch, gradient.data() + from, place.data() + from, columns, channels, &sums[n * all + k * filter]);
            }
    });
    for (size_t i = 0; i < all; i++) {
        double sum = 0;
        for (size_t n = 0; n < count; n++) sum += sums[n * all + i];
        weights.data()[i] = static_cast<float>(sum);
    }
}

}  // namespace

NB_MODULE(_training, m) {
    m.doc() = "Training on a CPU. Private: `dupnet.nn.mixed` uses it.";
    m.def("pool", &pool, "map"_a.noconvert(), "pooled"_a.noconvert(), "place"_a.noconvert(), "threads"_a,
          "Maxima of 2x2 blocks of `map (n, 2h, 2w, c) float32` to `pooled (n, h, w, c)`, and which of the four each was to `place`, uint8.");
    m.def("unpool", &unpool, "gradient"_a.noconvert(), "place"_a.noconvert(), "map"_a.noconvert(), "threads"_a,
          "The gradient of `pool`, `(n, h, w, c) float32`, to `map (n, 2h, 2w, c)`: bfloat16 as uint16.");
    m.def("first_gradient", &first_gradient, "photos"_a.noconvert(), "gradient"_a.noconvert(), "place"_a.noconvert(), "weights"_a.noconvert(),
          "threads"_a,
          "Gradient of the weights of a pooled 3x3 convolution over `photos (n, 2h, 2w, 3) uint8`, from that of what was pooled, to "
          "`weights (c, 3, 3, 3)`: filter, row, column, colour.");
}
