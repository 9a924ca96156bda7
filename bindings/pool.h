// The threads that the Python extension lends to the core. By itself in a file, so that a thread sanitizer can watch it at
// work without Python (tests/core/threads.cpp).
#ifndef DUPNET_POOL_H
#define DUPNET_POOL_H

#include <atomic>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

#include "dupnet.h"

namespace dupnet {

// Threads that sleep until a call shares its work with them. One pool per process: a child of fork() has none of its
// parent's threads and makes its own. Pools are never destroyed, so nothing waits for anything when the process ends.
//
// A detection shares its work ten times, a few microseconds apart, and to wake a sleeping thread takes longer than that. So whoever
// has nothing left to do looks around for up to YIELDS turns, in which other threads may run, before it goes to sleep.
class Pool {
public:
    static void run(void *, int count, dn_task task, void *context) { of_this_process().share(count, task, context); }

private:
    enum { YIELDS = 100 };  // some 50 microseconds

    struct Job {
        Job(int count, dn_task task, void *context) : count(count), task(task), context(context) {}
        const int count;
        const dn_task task;
        void *const context;
        int next = 0;
        std::atomic<int> done{0};  // written under the lock
    };

    template <class Condition>
    static void look_around(Condition condition) {
        for (int i = 0; i < YIELDS && !condition(); i++) std::this_thread::yield();
    }

    static Pool &of_this_process() {
        static std::atomic<Pool *> current{nullptr};
        Pool *pool = current.load();
        while (!pool || pool->owner != getpid()) {
            std::unique_ptr<Pool> fresh(new Pool);
            if (current.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
        }
        return *pool;
    }

    void share(int count, dn_task task, void *context) {
        Job job{count, task, context};
        std::unique_lock<std::mutex> lock(mutex);
        grow(count - 1);
        auto place = jobs.insert(jobs.end(), &job);
        posted++;
        wake.notify_all();
        work(job, lock);
        jobs.erase(place);
        auto is_done = [&] { return job.done == job.count; };
        lock.unlock();
        look_around(is_done);
        lock.lock();  // whoever finished the job has let go of it when this returns
        finished.wait(lock, is_done);
    }

    // Take the tasks of a job that nobody has taken. Locked on entry and on return.
    void work(Job &job, std::unique_lock<std::mutex> &lock) {
        while (job.next < job.count) {
            int index = job.next++;
            lock.unlock();
            job.task(job.context, index);
            lock.lock();
            if (++job.done == job.count) finished.notify_all();
        }
    }

    Job *open_job() {
        for (Job *job : jobs)
            if (job->next < job->count) return job;
        return nullptr;
    }

    // Best effort: where no thread can be started, the caller does the work.
    void grow(int wanted) {
        for (; threads < wanted; threads++) try {
                std::thread([this] {
                    std::unique_lock<std::mutex> lock(mutex);
                    for (;;) {
                        Job *job = nullptr;
                        wake.wait(lock, [&] { return (job = open_job()) != nullptr; });
                        work(*job, lock);
                        unsigned seen = posted;
                        lock.unlock();
                        look_around([&] { return posted != seen; });
                        lock.lock();
                    }
                }).detach();
            } catch (const std::system_error &) {
                return;
            }
    }

    const int owner = static_cast<int>(getpid());
    std::mutex mutex;
    std::condition_variable wake, finished;
    std::list<Job *> jobs;
    std::atomic<unsigned> posted{0};  // jobs so far, modulo 2^32; written under the lock
    int threads = 0;
};

}  // namespace dupnet

#endif
