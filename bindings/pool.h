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
class Pool {
public:
    static void run(void *, int count, dn_task task, void *context) { of_this_process().share(count, task, context); }

private:
    struct Job {
        int count;
        dn_task task;
        void *context;
        int next = 0, done = 0;
    };

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
        wake.notify_all();
        work(job, lock);
        jobs.erase(place);
        finished.wait(lock, [&] { return job.done == job.count; });
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
    int threads = 0;
};

}  // namespace dupnet

#endif
