// The seam between Python and the C core: check arrays, release the GIL, turn statuses into exceptions. No arithmetic.
//
// A `Model` may be used by any number of Python threads at once: each call borrows an arena of its own.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "dn_impl.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Photo = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;

void check(dn_status status) {
    if (status == DN_OK) return;
    if (status >= DN_FILE_TRUNCATED) {
        nb::object error = nb::module_::import_("dupnet.errors").attr("ModelFileError");
        PyErr_SetString(error.ptr(), dn_status_text(status));
    } else {
        PyErr_SetString(PyExc_ValueError, dn_status_text(status));
    }
    throw nb::python_error();
}

struct Arena {
    std::unique_ptr<uint8_t[]> bytes;
    size_t size = 0;

    // One that is far too large goes, too: a huge photo's memory comes back with the next small one.
    void fit(size_t wanted) {
        if (size >= wanted && size / 16 <= wanted) return;
        bytes.reset();
        size = 0;
        bytes.reset(new uint8_t[wanted]);
        size = wanted;
    }
};

template <class T>
auto numpy(std::unique_ptr<T[]> values, std::initializer_list<size_t> shape) {
    T *data = values.release();
    nb::capsule owner(data, [](void *p) noexcept { delete[] static_cast<T *>(p); });
    return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

// Output maps, copied out while the GIL is released.
struct Map {
    int bits;
    size_t channels, rows, columns;
    std::unique_ptr<uint8_t[]> levels;
    std::unique_ptr<int32_t[]> grid;
};

struct Maps {
    std::vector<Map> all;
    bool incomplete = false;  // memory ran out
};

std::vector<nb::object> arrays_of(std::vector<Map> &maps) {
    std::vector<nb::object> arrays;
    for (Map &map : maps)
        arrays.push_back(map.bits ? nb::cast(numpy(std::move(map.levels), {map.channels, map.rows, map.columns}))
                                  : nb::cast(numpy(std::move(map.grid), {map.channels, map.rows, map.columns})));
    return arrays;
}

// Boxes as `(n, 4)` corners and `(n,)` scores.
auto found(const dn_box *boxes, size_t count) {
    std::unique_ptr<float[]> xyxy(new float[4 * count]), scores(new float[count]);
    for (size_t i = 0; i < count; i++) {
        const float corners[4] = {boxes[i].x1, boxes[i].y1, boxes[i].x2, boxes[i].y2};
        std::copy(corners, corners + 4, xyxy.get() + 4 * i);
        scores[i] = boxes[i].score;
    }
    return std::make_pair(numpy(std::move(xyxy), {count, 4}), numpy(std::move(scores), {count}));
}

class Model {
public:
    Model(nb::bytes data, const std::string &kernels) : data(std::move(data)) {
        size_t bytes;
        check(dn_model_memory_bytes(this->data.c_str(), this->data.size(), &model, &bytes));
        memory.fit(bytes);
        check(dn_model_open(this->data.c_str(), this->data.size(), memory.bytes.get(), memory.size, &model));
        const char *variable = kernels.empty() ? std::getenv("DUPNET_KERNELS") : nullptr;
        choose_kernels(variable ? variable : kernels);
        check(dn_model_prepared_bytes(&model, &bytes));
        prepared.fit(bytes);
        check(dn_model_prepare(&model, prepared.bytes.get(), prepared.size));
    }

    auto detect(Photo image, int size, float score, float iou, int threads) {
        dn_photo photo = {image.data(), image.shape(1), image.shape(0), 3 * image.shape(1)};
        dn_options options = {size, score, iou, workers(threads)};
        size_t bytes, capacity, count = 0;
        check(dn_model_arena_bytes(&model, photo.width, photo.height, &options, &bytes));
        check(dn_model_boxes_max(&model, photo.width, photo.height, &options, &capacity));
        std::unique_ptr<dn_box[]> boxes;
        dn_status status;
        {
            nb::gil_scoped_release released;
            boxes.reset(new dn_box[capacity]);
            Arena arena = borrow(bytes);
            status = dn_detect(&model, &photo, &options, arena.bytes.get(), arena.size, boxes.get(), capacity, &count);
            give_back(std::move(arena));
        }
        check(status);
        return found(boxes.get(), count);
    }

    std::vector<nb::object> run(Photo input_map, int threads) {
        Maps maps;
        run_with(input_map, threads, copy_map, &maps, nullptr);
        if (maps.incomplete) throw std::bad_alloc();
        return arrays_of(maps.all);
    }

    // Seconds of each stage: the clock is read as each map is done.
    std::vector<double> stage_seconds(Photo input_map, int threads) {
        using clock = std::chrono::steady_clock;
        std::vector<clock::time_point> done;
        done.reserve(static_cast<size_t>(model.stage_count) + 1);
        dn_tap look = [](void *times, const dn_map *) { static_cast<std::vector<clock::time_point> *>(times)->push_back(clock::now()); };
        run_with(input_map, threads, look, &done, nullptr, true);
        std::vector<double> seconds;
        for (size_t i = 1; i < done.size(); i++) seconds.push_back(std::chrono::duration<double>(done[i] - done[i - 1]).count());
        return seconds;
    }

    // How each stage is computed, and its vector instructions for 1024 pixels of the convolution.
    std::vector<std::pair<std::string, uint64_t>> ways() const {
        std::vector<std::pair<std::string, uint64_t>> all;
        for (int i = 0; i < model.stage_count; i++) {
            uint64_t vectors;
            const char *way = model.kernels->describe(&model.stages[i], &vectors);
            all.emplace_back(way, vectors);
        }
        return all;
    }

    // Vector instructions of that way in a second, on registers alone.
    double peak(const std::string &way) const {
        using clock = std::chrono::steady_clock;
        if (!model.kernels->spin) throw nb::value_error("these kernels choose no vector instructions");
        const uint64_t vectors = 1 << 18;
        nb::gil_scoped_release released;
        auto start = clock::now();
        uint8_t result[64];
        model.kernels->spin(way.c_str(), vectors, result);
        return static_cast<double>(vectors) / std::chrono::duration<double>(clock::now() - start).count();
    }

    auto scores(Photo input_map, int threads) {
        std::unique_ptr<float[]> values(new float[model.stages[model.stage_count - 1].filters]);
        run_with(input_map, threads, nullptr, nullptr, values.get());
        return numpy(std::move(values), {model.stages[model.stage_count - 1].filters});
    }

    int classes() const { return model.anchor_count ? 0 : model.stages[model.stage_count - 1].filters; }

    size_t arena_bytes(size_t width, size_t height, int size, int threads, bool rows) const {
        dn_options options = {size, 1, 1, workers(threads)};
        size_t bytes;
        check((rows ? dn_stream_bytes : dn_model_arena_bytes)(&model, width, height, &options, &bytes));
        return bytes;
    }

    auto arena_parts(size_t width, size_t height, int size, int threads, bool rows) const {
        dn_options options = {size, 1, 1, workers(threads)};
        dn_part parts[DN_MAX_PARTS];
        size_t count;
        check((rows ? dn_stream_parts : dn_model_parts)(&model, width, height, &options, parts, DN_MAX_PARTS, &count));
        std::vector<std::tuple<std::string, int, uint64_t>> all;
        for (size_t i = 0; i < count; i++) all.emplace_back(parts[i].what, parts[i].stage, parts[i].bytes);
        return all;
    }

    size_t prepared_bytes() const { return prepared.size; }

    nb::bytes decoded() const { return nb::bytes(memory.bytes.get(), memory.size); }

    dn_model model;

private:
    // All stages; `scores` receives a classifier's if it is not NULL. The tap is called before the first stage too, with NULL, if asked for.
    void run_with(const Photo &input_map, int threads, dn_tap tap, void *context, float *scores, bool tap_first = false) {
        size_t rows = input_map.shape(0), columns = input_map.shape(1), grid_rows, grid_columns, bytes;
        dn_workers lent = workers(threads);
        check(dn_grid_size(&model, rows, columns, &grid_rows, &grid_columns));
        check(dn_run_arena_bytes(&model, rows, columns, &lent, &bytes));
        dn_status status;
        {
            nb::gil_scoped_release released;
            size_t cells = grid_rows * grid_columns;
            std::unique_ptr<int32_t[]> grid(new int32_t[model.stages[model.stage_count - 1].filters * cells]);
            Arena arena = borrow(bytes);
            if (tap_first) tap(context, nullptr);
            status = dn_run(&model, input_map.data(), rows, columns, &lent, tap, context, arena.bytes.get(), arena.size, grid.get());
            give_back(std::move(arena));
            if (status == DN_OK && scores) status = dn_class_scores(&model, grid.get(), cells, scores);
        }
        check(status);
    }

    static dn_workers workers(int threads) { return {threads, dupnet::Pool::run, nullptr}; }

    // "name" forces those kernels, "-name,-name" forbids some, "" leaves the choice to the core.
    void choose_kernels(const std::string &wanted) {
        std::set<std::string> known, forbidden;
        std::string listed;
        for (size_t i = 0; const char *name = dn_kernels_name(i); i++) known.insert(name), listed += std::string(" ") + name;
        std::istringstream words(wanted);
        for (std::string word; std::getline(words, word, ',');) {
            bool forbids = word[0] == '-';
            std::string name = word.substr(forbids);
            if (forbids && known.count(name) && name != dn_kernels_name(0))
                forbidden.insert(name);
            else if (word != wanted && !forbids)
                throw nb::value_error(("kernels are one name, or a list of those to avoid, such as -avx512,-avx2; not " + wanted).c_str());
            else if (forbids || dn_model_use_kernels(&model, name.c_str()) != DN_OK)
                throw nb::value_error(("no kernels " + word + " run here; this build has" + listed).c_str());
        }
        if (forbidden.empty()) return;
        for (size_t i = 0; const char *name = dn_kernels_name(i); i++)
            if (!forbidden.count(name)) dn_model_use_kernels(&model, name);  // the last that runs here stays
    }

    // Called from C, through which no exception may fly.
    static void copy_map(void *context, const dn_map *map) {
        Maps &maps = *static_cast<Maps *>(context);
        try {
            maps.all.push_back(copy_of(*map));
        } catch (const std::bad_alloc &) {
            maps.incomplete = true;
        }
    }

    static Map copy_of(const dn_map &map) {
        size_t count = map.channels * map.rows * map.columns, i = 0;
        Map copy{map.bits, map.channels, map.rows, map.columns, nullptr, nullptr};
        if (map.bits)
            copy.levels.reset(new uint8_t[count]);
        else
            copy.grid.reset(new int32_t[count]);
        for (size_t c = 0; c < map.channels; c++)
            for (size_t y = 0; y < map.rows; y++)
                for (size_t x = 0; x < map.columns; x++, i++) {
                    int32_t value = dn_map_value(&map, c, y, x);
                    if (map.bits)
                        copy.levels[i] = static_cast<uint8_t>(value);
                    else
                        copy.grid[i] = value;
                }
        return copy;
    }

    // Arenas wait here between calls. Nobody ever waits for the lock, because after a fork() it may belong to a thread that
    // the child does not have: who finds it taken does without.
    Arena borrow(size_t bytes) {
        Arena arena;
        if (std::unique_lock<std::mutex> lock{mutex, std::try_to_lock}; lock && !arenas.empty()) {
            arena = std::move(arenas.back());
            arenas.pop_back();
        }
        arena.fit(bytes);
        return arena;
    }

    void give_back(Arena arena) {
        if (std::unique_lock<std::mutex> lock{mutex, std::try_to_lock}; lock) arenas.push_back(std::move(arena));
    }

    nb::bytes data;
    Arena memory;  // of what opening decodes
    Arena prepared;
    std::mutex mutex;
    std::vector<Arena> arenas;
};

// A photo that arrives in rows. One thread at a time may use it; it keeps its model alive (nb::keep_alive).
class Stream {
public:
    Stream(const Model &model, size_t width, size_t height, int size, float score, float iou) : width(width) {
        dn_options options = {size, score, iou, {0, nullptr, nullptr}};
        size_t bytes, capacity;
        check(dn_stream_bytes(&model.model, width, height, &options, &bytes));
        check(dn_model_boxes_max(&model.model, width, height, &options, &capacity));
        arena.fit(bytes);
        boxes.reset(new dn_box[capacity]);
        check(dn_stream_begin(&model.model, width, height, &options, arena.bytes.get(), arena.size, boxes.get(), capacity, &stream));
    }

    void feed(Photo rows) {
        if (rows.shape(1) != width) throw nb::value_error("the rows do not have the photo's width");
        dn_status status;
        {
            nb::gil_scoped_release released;
            std::lock_guard<std::mutex> lock(mutex);
            status = dn_feed_rows(stream, rows.data(), rows.shape(0), 3 * width);
        }
        check(status);
    }

    auto end() {
        size_t count = 0;
        dn_status status;
        {
            nb::gil_scoped_release released;
            std::lock_guard<std::mutex> lock(mutex);
            status = dn_stream_end(stream, &count);
        }
        check(status);
        return found(boxes.get(), count);
    }

    // The maps of one photo, put together from their pieces.
    static std::vector<nb::object> run(const Model &model, Photo input_map) {
        Stream stream(model, input_map.shape(1), input_map.shape(0), static_cast<int>(std::max(input_map.shape(0), input_map.shape(1))), 1, 1);
        std::vector<Map> maps;
        size_t rows = input_map.shape(0), columns = input_map.shape(1);
        for (int i = 0; i < model.model.stage_count; i++) {
            const dn_stage &stage = model.model.stages[i];
            maps.push_back(Map{stage.output_bits, stage.filters, rows /= stage.pool, columns /= stage.pool, nullptr, nullptr});
            size_t count = stage.filters * rows * columns;
            if (stage.output_bits)
                maps.back().levels.reset(new uint8_t[count]());
            else
                maps.back().grid.reset(new int32_t[count]());
        }
        check(dn_stream_tap(stream.stream, copy_piece, &maps));
        stream.feed(input_map);
        stream.end();
        return arrays_of(maps);
    }

private:
    static void copy_piece(void *context, const dn_map *piece, size_t row, size_t column) {
        Map &map = (*static_cast<std::vector<Map> *>(context))[static_cast<size_t>(piece->stage)];
        for (size_t c = 0; c < piece->channels; c++)
            for (size_t x = 0; x < piece->columns; x++) {
                size_t at = (c * map.rows + row) * map.columns + column + x;
                int32_t value = dn_map_value(piece, c, 0, x);
                if (map.bits)
                    map.levels[at] = static_cast<uint8_t>(value);
                else
                    map.grid[at] = value;
            }
    }

    const size_t width;
    Arena arena;
    std::unique_ptr<dn_box[]> boxes;
    dn_stream *stream = nullptr;
    std::mutex mutex;
};

auto resize(Photo image, size_t rows, size_t columns) {
    dn_photo photo = {image.data(), image.shape(1), image.shape(0), 3 * image.shape(1)};
    size_t bytes;
    check(dn_resize_arena_bytes(photo.width, photo.height, rows, columns, &bytes));
    std::unique_ptr<uint8_t[]> out(new uint8_t[3 * rows * columns]);
    dn_status status;
    {
        nb::gil_scoped_release released;
        Arena arena;
        arena.fit(bytes);
        status = dn_resize(&photo, rows, columns, arena.bytes.get(), arena.size, out.get());
    }
    check(status);
    return numpy(std::move(out), {rows, columns, 3});
}

std::vector<std::string> kernels() {
    std::vector<std::string> names;
    for (size_t i = 0; const char *name = dn_kernels_name(i); i++)
        if (dn_kernels_run_here(i)) names.push_back(name);
    return names;
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "The C core. Private: use `dupnet.Detector`.";

    nb::class_<Model>(m, "Model", "A packed file, checked and ready to run. Threads may share it.")
        .def(nb::init<nb::bytes, const std::string &>(), "data"_a, "kernels"_a = "",
             "Check a packed file. `kernels`, or the environment variable DUPNET_KERNELS, names other kernels than the fastest, for tests; "
             "`-name,-name` forbids some.")
        .def("detect", &Model::detect, "photo"_a.noconvert(), nb::kw_only(), "size"_a, "score"_a, "iou"_a, "threads"_a = 1,
             "Find boxes in a photo `(h, w, 3) uint8`, contiguous: `(n, 4) float32` x1 y1 x2 y2 and `(n,) float32` scores, the best first.")
        .def("run", &Model::run, "input_map"_a.noconvert(), nb::kw_only(), "threads"_a = 1,
             "Run all stages on an input map `(rows, columns, 3) uint8`: levels `(filters, rows, columns) uint8` of each stage, then the "
             "grid, int32.")
        .def("stage_seconds", &Model::stage_seconds, "input_map"_a.noconvert(), nb::kw_only(), "threads"_a = 1,
             "Run all stages on an input map and tell how long each took.")
        .def("ways", &Model::ways, "For each stage, how it is computed and the vector instructions that 1024 pixels of its convolution need.")
        .def("peak", &Model::peak, "way"_a, "Vector instructions of that way in a second, with nothing else to do.")
        .def("scores", &Model::scores, "input_map"_a.noconvert(), nb::kw_only(), "threads"_a = 1,
             "Class scores `(classes,) float32` of an input map.")
        .def_prop_ro("classes", &Model::classes, "0 where the model finds boxes.")
        .def("arena_bytes", &Model::arena_bytes, "width"_a, "height"_a, nb::kw_only(), "size"_a, "threads"_a = 1, "rows"_a = false,
             "Bytes of memory that `detect`, or a `Stream`, works in for a photo of this size.")
        .def("arena_parts", &Model::arena_parts, "width"_a, "height"_a, nb::kw_only(), "size"_a, "threads"_a = 1, "rows"_a = false,
             "What these bytes are for: what, index of the stage or -1, bytes; with up to 63 for the alignment they are all.")
        .def_prop_ro("kernels", [](const Model &m) { return std::string(dn_model_kernels(&m.model)); })
        .def_prop_ro("prepared_bytes", &Model::prepared_bytes, "Bytes of weights in the order of the kernels, made once.")
        .def_prop_ro("decoded", &Model::decoded, "The model's memory: what opening decoded, stage by stage; for tests.")
        .def_prop_ro("name", [](const Model &m) { return std::string(m.model.name); })
        .def_prop_ro("stride", [](const Model &m) { return m.model.stride; })
        .def_prop_ro("default_size", [](const Model &m) { return m.model.default_size; })
        .def_prop_ro("default_score", [](const Model &m) { return m.model.default_score; });

    nb::class_<Stream>(m, "Stream", "A photo that arrives in rows.")
        .def(nb::init<const Model &, size_t, size_t, int, float, float>(), nb::keep_alive<1, 2>(), "model"_a, "width"_a, "height"_a,
             nb::kw_only(), "size"_a, "score"_a, "iou"_a)
        .def("feed", &Stream::feed, "rows"_a.noconvert(), "Feed the next rows `(n, width, 3) uint8`, contiguous.")
        .def("end", &Stream::end, "The boxes, as `Model.detect` gives them, after the last row.")
        .def_static("run", &Stream::run, "model"_a, "input_map"_a.noconvert(),
                    "All maps of an input map, as `Model.run` gives them; the long side is at least 32.");

    m.def("resize", &resize, "photo"_a.noconvert(), "rows"_a, "columns"_a, "Resize a photo `(h, w, 3) uint8` to `(rows, columns, 3)`.");
    m.def("kernels", &kernels, "Names of the kernels that run here, the slowest first.");
}
