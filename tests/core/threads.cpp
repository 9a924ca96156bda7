// Many threads share one model and the worker pool of the Python extension; compiled with the thread sanitizer, which sees
// every unordered access. Also a test by itself: all of them must find the same boxes.
//
// Usage: threads MODEL.dnet
#include "pool.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define CHECK(true)                                                         \
    do {                                                                    \
        if (!(true)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #true); \
            std::exit(1);                                                   \
        }                                                                   \
    } while (0)

namespace {

const int CALLERS = 6, ROUNDS = 40, PHOTOS = 3;

// With no workers, by row streaming.
std::vector<dn_box> detect(const dn_model &model, int number, int workers) {
    size_t width = 30 + 17 * static_cast<size_t>(number), height = 50, bytes, most, count;
    std::vector<uint8_t> pixels(3 * width * height);
    for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<uint8_t>(i * i * 13 + i / 7);
    dn_photo photo = {pixels.data(), width, height, 3 * width};
    dn_options options = dn_model_options(&model);
    options.size = 48;
    options.score = 0.25f;
    options.workers.count = workers;
    options.workers.run = dupnet::Pool::run;
    CHECK((workers ? dn_model_arena_bytes : dn_stream_bytes)(&model, width, height, &options, &bytes) == DN_OK);
    CHECK(dn_model_boxes_max(&model, width, height, &options, &most) == DN_OK);
    std::vector<uint8_t> arena(bytes);
    std::vector<dn_box> boxes(most);
    if (workers) {
        CHECK(dn_detect(&model, &photo, &options, arena.data(), bytes, boxes.data(), most, &count) == DN_OK);
    } else {
        dn_stream *stream;
        CHECK(dn_stream_begin(&model, width, height, &options, arena.data(), bytes, boxes.data(), most, &stream) == DN_OK);
        CHECK(dn_feed_rows(stream, pixels.data(), height, photo.row_bytes) == DN_OK && dn_stream_end(stream, &count) == DN_OK);
    }
    boxes.resize(count);
    return boxes;
}

bool equal(const std::vector<dn_box> &a, const std::vector<dn_box> &b) {
    return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]));
}

}  // namespace

int main(int argc, char **argv) {
    std::FILE *stream = argc > 1 ? std::fopen(argv[1], "rb") : nullptr;
    CHECK(stream);
    std::vector<uint8_t> file(1 << 20);
    file.resize(std::fread(file.data(), 1, file.size(), stream));
    std::fclose(stream);
    dn_model model;
    std::vector<uint8_t> memory(1 << 20);
    CHECK(dn_model_open(file.data(), file.size(), memory.data(), memory.size(), &model) == DN_OK);
    std::vector<std::vector<dn_box>> expected;
    for (int number = 0; number < PHOTOS; number++) {
        expected.push_back(detect(model, number, 1));
        CHECK(!expected.back().empty());
    }
    std::vector<std::thread> callers;
    for (int caller = 0; caller < CALLERS; caller++)
        callers.emplace_back([&, caller] {
            for (int round = 0; round < ROUNDS; round++) {
                int number = (caller + round) % PHOTOS;
                CHECK(equal(detect(model, number, (caller + round / 2) % 5), expected[static_cast<size_t>(number)]));
            }
        });
    for (std::thread &caller : callers) caller.join();
    std::puts("ok");
}
