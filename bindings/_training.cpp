// What training on a CPU needs and torch does slowly: the first layer (over three colours) with its pooling, 2x2 max-pooling that remembers where each
// maximum was, batch norm with quantizer, and the gradients of all three. Gradients of maps are bfloat16, as uint16 (the upper half of a float), but for
// the first layer: its pixels are far from zero, and what its gradients cancel must not be rounded. Maps are `(photos, rows, columns, channels)`,
// channels in groups of GROUP. `dupnet.nn.mixed` calls this.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <vector>

#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12  // older ones know no levels, other libraries no ifunc
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

constexpr size_t GROUP = 8, PLACES = 9, COLOURS = 3;

template <class T>
using Map = nb::ndarray<T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

// GROUP numbers in a vector register.
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(8)));
typedef float Row __attribute__((vector_size(64)));  // the PLACES numbers of a row of a 3x3x3 kernel, and what lies behind them

// Vectors lie anywhere in memory.
template <class V, class T>
inline __attribute__((always_inline)) V at(const T *p) {
    V vector;
    std::memcpy(&vector, p, sizeof vector);
    return vector;
}

template <class V, class T>
inline __attribute__((always_inline)) void put(T *p, V vector) {
    std::memcpy(p, &vector, sizeof vector);
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

// GROUP maxima of four, and which of the four each was. Of equal numbers the first counts, in reading order, as in torch.
inline __attribute__((always_inline)) void largest(Floats a0, Floats a1, Floats b0, Floats b1, float *pooled, uint8_t *place) {
    Ints right = a1 > a0, right_below = b1 > b0;
    Floats above = right ? a1 : a0, below = right_below ? b1 : b0;
    Ints lower = below > above;
    put<Floats>(pooled, lower ? below : above);
    put<Bytes>(place, __builtin_convertvector(lower ? 2 + (right_below & 1) : right & 1, Bytes));
}

// One row of maxima from two rows `a`, `b`.
FOR_EACH_PROCESSOR void pool_row(const float *a, const float *b, size_t columns, size_t channels, float *pooled, uint8_t *place) {
    for (size_t x = 0; x < columns; x++, a += 2 * channels, b += 2 * channels)
        for (size_t k = 0; k < channels; k += GROUP, pooled += GROUP, place += GROUP)
            largest(at<Floats>(a + k), at<Floats>(a + channels + k), at<Floats>(b + k), at<Floats>(b + channels + k), pooled, place);
}

// The other way: each gradient to where its maximum was, zeros elsewhere.
FOR_EACH_PROCESSOR void unpool_row(const uint16_t *gradient, const uint8_t *place, size_t columns, size_t channels, uint16_t *a, uint16_t *b) {
    for (size_t x = 0; x < columns; x++, a += 2 * channels, b += 2 * channels)
        for (size_t k = 0; k < channels; k += GROUP, gradient += GROUP, place += GROUP) {
            Halves value = at<Halves>(gradient), where = __builtin_convertvector(at<Bytes>(place), Halves);
            put<Halves>(a + k, where == 0 ? value : Halves{});
            put<Halves>(a + channels + k, where == 1 ? value : Halves{});
            put<Halves>(b + k, where == 2 ? value : Halves{});
            put<Halves>(b + channels + k, where == 3 ? value : Halves{});
        }
}

inline __attribute__((always_inline)) Floats widened(const uint16_t *p) { return (Floats)(__builtin_convertvector(at<Halves>(p), Bits) << 16); }

// Rounded to nearest, ties to even; or as they are.
inline __attribute__((always_inline)) void narrow(Floats values, uint16_t *p) {
    Bits bits = (Bits)values;
    put<Halves>(p, __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves));
}

inline __attribute__((always_inline)) void narrow(Floats values, float *p) { put<Floats>(p, values); }

// Of `columns` pixels and GROUP channels, what a batch norm wants to know: the sum, and that of squares.
FOR_EACH_PROCESSOR void add_row(const float *map, size_t columns, size_t channels, float *sum, float *squares) {
    Floats one = {}, two = {};
    for (size_t x = 0; x < columns; x++, map += channels) one += at<Floats>(map), two += at<Floats>(map) * at<Floats>(map);
    put<Floats>(sum, one), put<Floats>(squares, two);
}

// Levels, as bfloat16, which holds whole numbers to 256: floor(clamp(slope x + shift, 0, top) + 1/2).
FOR_EACH_PROCESSOR void quantize_row(const float *map, size_t columns, size_t channels, const float *slope, const float *shift, float top,
                                     uint16_t *levels) {
    for (size_t x = 0; x < columns; x++)
        for (size_t k = 0; k < channels; k += GROUP, map += GROUP, levels += GROUP) {
            Floats s = at<Floats>(map) * at<Floats>(slope + k) + at<Floats>(shift + k);
            s = s > 0 ? s : Floats{};
            s = s < top ? s : top - Floats{};
            Floats level = __builtin_convertvector(__builtin_convertvector(s + 0.5f, Ints), Floats);
            put<Halves>(levels, __builtin_convertvector((Bits)level >> 16, Halves));
        }
}

// The gradient passes where the quantizer does not clip.
inline __attribute__((always_inline)) Floats passing(Floats x, Floats slope, Floats shift, float top, const uint16_t *gradient) {
    Floats s = x * slope + shift;
    return ((s >= 0) & (s <= top)) ? widened(gradient) : Floats{};
}

// Of `columns` pixels and GROUP channels, the sums of what passes and of what passes times the distance from the mean.
FOR_EACH_PROCESSOR void add_passing_row(const float *map, const uint16_t *gradient, size_t columns, size_t channels, const float *mean,
                                        const float *slope, const float *shift, float top, float *sum, float *product) {
    Floats one = {}, two = {}, m = at<Floats>(mean), a = at<Floats>(slope), b = at<Floats>(shift);
    for (size_t x = 0; x < columns; x++, map += channels, gradient += channels) {
        Floats g = passing(at<Floats>(map), a, b, top, gradient);
        one += g, two += g * (at<Floats>(map) - m);
    }
    put<Floats>(sum, one), put<Floats>(product, two);
}

// The gradient of a batch norm's input: slope (g - first - second (x - mean)).
template <class T>
inline __attribute__((always_inline)) void normalized(const float *map, const uint16_t *gradient, size_t columns, size_t channels, const float *mean,
                                                      const float *slope, const float *shift, const float *first, const float *second, float top,
                                                      T *result) {
    for (size_t x = 0; x < columns; x++)
        for (size_t k = 0; k < channels; k += GROUP, map += GROUP, gradient += GROUP, result += GROUP) {
            Floats value = at<Floats>(map), a = at<Floats>(slope + k), g = passing(value, a, at<Floats>(shift + k), top, gradient);
            narrow(a * (g - at<Floats>(first + k) - at<Floats>(second + k) * (value - at<Floats>(mean + k))), result);
        }
}

FOR_EACH_PROCESSOR void normalized_row(const float *map, const uint16_t *gradient, size_t columns, size_t channels, const float *mean,
                                       const float *slope, const float *shift, const float *first, const float *second, float top, uint16_t *result) {
    normalized(map, gradient, columns, channels, mean, slope, shift, first, second, top, result);
}

FOR_EACH_PROCESSOR void normalized_row(const float *map, const uint16_t *gradient, size_t columns, size_t channels, const float *mean,
                                       const float *slope, const float *shift, const float *first, const float *second, float top, float *result) {
    normalized(map, gradient, columns, channels, mean, slope, shift, first, second, top, result);
}

// One photo as floats with a border of zeros, and room for the last vector behind it.
std::vector<float> bordered(const uint8_t *photo, size_t rows, size_t width) {
    size_t pitch = width + 2 * COLOURS;
    std::vector<float> padded((rows + 2) * pitch + sizeof(Row) / sizeof(float));
    for (size_t y = 0; y < rows; y++)
        for (size_t i = 0; i < width; i++) padded[(y + 1) * pitch + COLOURS + i] = photo[y * width + i];
    return padded;
}

// One row of pooled sums of GROUP filters of the first layer, whose kernels are `weights` [3][PLACES][GROUP]. All numbers are integers below 2^24: floats
// hold them exactly, in any order.
FOR_EACH_PROCESSOR void convolve_first_row(const float *rows, size_t pitch, const float *weights, size_t columns, size_t channels, float *pooled,
                                           uint8_t *place) {
    Floats w[3 * PLACES];
    for (size_t i = 0; i < 3 * PLACES; i++) w[i] = at<Floats>(weights + i * GROUP);
    for (size_t x = 0; x < columns; x++, rows += 2 * COLOURS, pooled += channels, place += channels) {
        Floats sums[4] = {};
#pragma GCC unroll 3
        for (size_t r = 0; r < 3; r++)
#pragma GCC unroll 9
            for (size_t i = 0; i < PLACES; i++) {
                const float *p = rows + r * pitch + i;
                sums[0] += p[0] * w[r * PLACES + i];
                sums[1] += p[COLOURS] * w[r * PLACES + i];
                sums[2] += p[pitch] * w[r * PLACES + i];
                sums[3] += p[pitch + COLOURS] * w[r * PLACES + i];
            }
        largest(sums[0], sums[1], sums[2], sums[3], pooled, place);
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

void unpool(Map<const uint16_t> gradient, Map<const uint8_t> place, Map<uint16_t> map, int threads) {
    check(map, gradient), check_equal(gradient, place);
    if (map.shape(3) != gradient.shape(3)) throw std::invalid_argument("the maps must have the same number of channels");
    nb::gil_scoped_release release;
    size_t rows = gradient.shape(1), columns = gradient.shape(2), channels = gradient.shape(3), row = columns * channels;
    share(gradient.shape(0) * rows, threads, [&](size_t y) {
        uint16_t *a = map.data() + 4 * y * row;
        unpool_row(gradient.data() + y * row, place.data() + y * row, columns, channels, a, a + 2 * row);
    });
}

void check_first(const Map<const uint8_t> &photos, size_t channels, size_t weights) {
    if (photos.shape(3) != COLOURS || weights != channels * 3 * PLACES) throw std::invalid_argument("the first layer has 3x3 kernels over 3 colours");
}

void convolve_first(Map<const uint8_t> photos, Map<const float> weights, Map<float> pooled, Map<uint8_t> place, int threads) {
    check(photos, pooled), check_equal(pooled, place);
    size_t rows = pooled.shape(1), columns = pooled.shape(2), channels = pooled.shape(3);
    check_first(photos, channels, weights.size());
    if (weights.shape(3) != GROUP) throw std::invalid_argument("the filters must come in groups of 8");
    nb::gil_scoped_release release;
    size_t width = photos.shape(2) * COLOURS, pitch = width + 2 * COLOURS;
    share(photos.shape(0), threads, [&](size_t n) {
        std::vector<float> photo = bordered(photos.data() + n * 2 * rows * width, 2 * rows, width);
        for (size_t y = 0; y < rows; y++)
            for (size_t k = 0; k < channels; k += GROUP) {
                size_t to = (n * rows + y) * columns * channels + k;
                convolve_first_row(&photo[2 * y * pitch], pitch, weights.data() + k * 3 * PLACES, columns, channels, pooled.data() + to, place.data() + to);
            }
    });
}

void first_gradient(Map<const uint8_t> photos, Map<const float> gradient, Map<const uint8_t> place, Map<float> weights, int threads) {
    check(photos, gradient), check_equal(gradient, place);
    size_t count = photos.shape(0), rows = gradient.shape(1), columns = gradient.shape(2), channels = gradient.shape(3);
    check_first(photos, channels, weights.size());
    nb::gil_scoped_release release;
    size_t width = photos.shape(2) * COLOURS, pitch = width + 2 * COLOURS, filter = 3 * PLACES, all = channels * filter;
    std::vector<float> sums(count * all);  // each photo's by itself, so that the number of threads does not change the order of the sums
    share(count, threads, [&](size_t n) {
        std::vector<float> photo = bordered(photos.data() + n * 2 * rows * width, 2 * rows, width);
        for (size_t y = 0; y < rows; y++)
            for (size_t k = 0; k < channels; k += GROUP) {
                size_t from = (n * rows + y) * columns * channels + k;
                first_row(&photo[2 * y * pitch], pitch, gradient.data() + from, place.data() + from, columns, channels, &sums[n * all + k * filter]);
            }
    });
    for (size_t i = 0; i < all; i++) {
        double sum = 0;
        for (size_t n = 0; n < count; n++) sum += sums[n * all + i];
        weights.data()[i] = static_cast<float>(sum);
    }
}

// Sums over all pixels of a map, two for each channel: `row(photo, y, k, sum, other)` gives those of a row and of GROUP channels from `k` on. Each photo's are
// added up by themselves, so that the number of threads does not change the order.
template <class T, class RowSums>
std::vector<double> sums_of(const Map<T> &map, int threads, RowSums row) {
    size_t count = map.shape(0), rows = map.shape(1), channels = map.shape(3);
    std::vector<double> photos(count * 2 * channels), all(2 * channels);
    share(count, threads, [&](size_t n) {
        float sum[GROUP], other[GROUP];
        double *to = &photos[n * 2 * channels];
        for (size_t y = 0; y < rows; y++)
            for (size_t k = 0; k < channels; k += GROUP) {
                row(n * rows + y, k, sum, other);
                for (size_t i = 0; i < GROUP; i++) to[k + i] += sum[i], to[channels + k + i] += other[i];
            }
    });
    for (size_t n = 0; n < count; n++)
        for (size_t i = 0; i < 2 * channels; i++) all[i] += photos[n * 2 * channels + i];
    return all;
}

using Vector = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstVector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A batch norm and the quantizer behind it, as one slope and one shift for each channel, in units of a level.
struct Norm {
    std::vector<float> mean, slope, shift;
    std::vector<double> inverse;  // of the standard deviation

    Norm(size_t channels, const float *means, const float *variances, const float *weight, const float *bias, double step, double eps)
        : mean(means, means + channels) {
        for (size_t k = 0; k < channels; k++) {
            inverse.push_back(1 / std::sqrt(variances[k] + eps));
            double a = weight[k] * inverse[k];
            slope.push_back(static_cast<float>(a / step)), shift.push_back(static_cast<float>((bias[k] - a * means[k]) / step));
        }
    }
};

template <class A, class B>
void check_norm(const Map<A> &map, const Map<B> &other, std::initializer_list<size_t> sizes) {
    check_equal(map, other);
    if (map.shape(3) % GROUP) throw std::invalid_argument("the number of channels must be a multiple of 8");
    for (size_t size : sizes)
        if (size != map.shape(3)) throw std::invalid_argument("a batch norm has as many numbers as the map has channels");
}

void normalize(Map<const float> map, ConstVector weight, ConstVector bias, double step, int top, double eps, Map<uint16_t> levels, Vector mean,
               Vector variance, int threads) {
    check_norm(map, levels, {weight.size(), bias.size(), mean.size(), variance.size()});
    nb::gil_scoped_release release;
    size_t channels = map.shape(3), columns = map.shape(2), row = columns * channels, rows = map.shape(0) * map.shape(1);
    auto sums = sums_of(map, threads, [&](size_t y, size_t k, float *sum, float *squares) { add_row(map.data() + y * row + k, columns, channels, sum, squares); });
    for (size_t k = 0; k < channels; k++) {
        double pixels = static_cast<double>(rows * columns), m = sums[k] / pixels;
        mean.data()[k] = static_cast<float>(m), variance.data()[k] = static_cast<float>(std::max(sums[channels + k] / pixels - m * m, 0.0));
    }
    Norm norm(channels, mean.data(), variance.data(), weight.data(), bias.data(), step, eps);
    share(rows, threads, [&](size_t y) {
        quantize_row(map.data() + y * row, columns, channels, norm.slope.data(), norm.shift.data(), static_cast<float>(top), levels.data() + y * row);
    });
}

template <class T>
double normalize_gradient(Map<const float> map, Map<const uint16_t> gradient, ConstVector mean, ConstVector variance, ConstVector weight, ConstVector bias,
                          double step, int top, double eps, Map<T> result, Vector of_weight, Vector of_bias, int threads) {
    check_norm(map, gradient, {weight.size(), bias.size(), mean.size(), variance.size(), of_weight.size(), of_bias.size()}), check_equal(map, result);
    nb::gil_scoped_release release;
    size_t channels = map.shape(3), columns = map.shape(2), row = columns * channels, rows = map.shape(0) * map.shape(1);
    float largest = static_cast<float>(top);
    Norm norm(channels, mean.data(), variance.data(), weight.data(), bias.data(), step, eps);
    auto sums = sums_of(map, threads, [&](size_t y, size_t k, float *sum, float *product) {
        add_passing_row(map.data() + y * row + k, gradient.data() + y * row + k, columns, channels, &norm.mean[k], &norm.slope[k], &norm.shift[k], largest, sum,
                        product);
    });
    std::vector<float> first(channels), second(channels);
    double of_values = 0;  // the sum of gradients times what they are gradients of, in units of a level
    for (size_t k = 0; k < channels; k++) {
        double pixels = static_cast<double>(rows * columns), one = sums[k], two = sums[channels + k] * norm.inverse[k];
        first[k] = static_cast<float>(one / pixels), second[k] = static_cast<float>(two * norm.inverse[k] / pixels);
        of_weight.data()[k] = static_cast<float>(two / step), of_bias.data()[k] = static_cast<float>(one / step);
        of_values += (weight.data()[k] * two + bias.data()[k] * one) / step;
    }
    share(rows, threads, [&](size_t y) {
        size_t from = y * row;
        normalized_row(map.data() + from, gradient.data() + from, columns, channels, norm.mean.data(), norm.slope.data(), norm.shift.data(), first.data(),
                       second.data(), largest, result.data() + from);
    });
    return -of_values / step;
}

}  // namespace

NB_MODULE(_training, m) {
    m.doc() = "Training on a CPU. Private: `dupnet.nn.mixed` uses it.";
    m.def("pool", &pool, "map"_a.noconvert(), "pooled"_a.noconvert(), "place"_a.noconvert(), "threads"_a,
          "Maxima of 2x2 blocks of `map (n, 2h, 2w, c) float32` to `pooled (n, h, w, c)`, and which of the four each was to `place`, uint8.");
    m.def("unpool", &unpool, "gradient"_a.noconvert(), "place"_a.noconvert(), "map"_a.noconvert(), "threads"_a,
          "The gradient of `pool`, from `(n, h, w, c)` to `map (n, 2h, 2w, c)`: both bfloat16, as uint16.");
    m.def("normalize", &normalize, "map"_a.noconvert(), "weight"_a.noconvert(), "bias"_a.noconvert(), "step"_a, "top"_a, "eps"_a, "levels"_a.noconvert(),
          "mean"_a.noconvert(), "variance"_a.noconvert(), "threads"_a,
          "Batch norm of `map (n, h, w, c) float32` by its own statistics, which go to `mean` and `variance`, then levels 0..top of size `step`, as bfloat16.");
    auto describe = [&m](auto normalize_gradient) {
        m.def("normalize_gradient", normalize_gradient, "map"_a.noconvert(), "gradient"_a.noconvert(), "mean"_a.noconvert(), "variance"_a.noconvert(),
              "weight"_a.noconvert(), "bias"_a.noconvert(), "step"_a, "top"_a, "eps"_a, "result"_a.noconvert(), "of_weight"_a.noconvert(),
              "of_bias"_a.noconvert(), "threads"_a,
              "The gradients of `normalize`, rounding straight through: of the map to `result`, of weight and bias; returns that of `step`.");
    };
    describe(&normalize_gradient<uint16_t>), describe(&normalize_gradient<float>);
    m.def("convolve_first", &convolve_first, "photos"_a.noconvert(), "weights"_a.noconvert(), "pooled"_a.noconvert(), "place"_a.noconvert(), "threads"_a,
          "`pool` of the convolution of `photos (n, 2h, 2w, 3) uint8` with 3x3 kernels, `weights (c / 8, 3, 9, 8)`: group, row, column and colour, filter.");
    m.def("first_gradient", &first_gradient, "photos"_a.noconvert(), "gradient"_a.noconvert(), "place"_a.noconvert(), "weights"_a.noconvert(),
          "threads"_a,
          "Gradient of the weights of a pooled 3x3 convolution over `photos (n, 2h, 2w, 3) uint8`, from that of what was pooled, to "
          "`weights (c, 3, 3, 3)`: filter, row, column, colour.");
}
