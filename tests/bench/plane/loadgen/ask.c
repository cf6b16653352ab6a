/* Questions and answers: a connection each (rate), one after another on an open one (latency), or until served (probe). */
#include "load.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

#define CONCURRENT_MAX 4096
#define SAMPLES_MAX (8u << 20)
#define REQUEST_MAX PERIOD

static uint32_t *samples;
static size_t sampled;

static void sample(int64_t took_ns)
{
    if (!samples && !(samples = malloc(SAMPLES_MAX * sizeof *samples)))
        fail("memory");
    if (sampled < SAMPLES_MAX)
        samples[sampled++] = took_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)took_ns;
}

static double at_us(double part)
{
    return sampled ? samples[(size_t)(part * (double)(sampled - 1))] / 1e3 : 0;
}

static int question_in(char *buffer, uint64_t seed, uint32_t request, uint32_t reply)
{
    struct question question = {.magic = MAGIC, .kind = ASK, .seed = seed, .request = request, .reply = reply};
    if (request < sizeof question || request > REQUEST_MAX || reply < sizeof(struct answer))
        return -1;
    memcpy(buffer, &question, sizeof question);
    memcpy(buffer + sizeof question, pattern(seed, sizeof question), request - sizeof question);
    return 0;
}

static int sizes_wrong(void)
{
    fprintf(stderr, "load: a request has %zu to %u bytes, a reply at least %zu\n", sizeof(struct question), REQUEST_MAX,
            sizeof(struct answer));
    return 2;
}

struct slot {
    int fd, asked;
    uint64_t seed;
    uint32_t got;
    int64_t begun;
    struct answer answer;
};

static struct slot slots[CONCURRENT_MAX];
static int poller;

static int start(const struct target *target, uint32_t at, uint64_t seed)
{
    struct slot *slot = &slots[at];
    *slot = (struct slot){.fd = open_socket(target, SOCK_STREAM | SOCK_NONBLOCK), .seed = seed, .begun = now_ns()};
    if (connect(slot->fd, (const struct sockaddr *)&target->address, target->length) && errno != EINPROGRESS) {
        close(slot->fd);
        slot->fd = -1;
        return -1;
    }
    /* By edge: one call a connection says both when to write and when to read. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = at};
    return epoll_ctl(poller, EPOLL_CTL_ADD, slot->fd, &event);
}

int rate(const struct target *target, uint32_t request, uint32_t reply, int concurrent, double seconds)
{
    static char asking[REQUEST_MAX], buffer[2 * CHUNK];
    uint64_t done = 0, failed = 0, corrupt = 0, seed = (uint64_t)now_ns();
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (question_in(asking, seed, request, reply) || concurrent < 1 || concurrent > CONCURRENT_MAX)
        return sizes_wrong();
    int64_t begun = now_ns(), end = begun + (int64_t)(seconds * 1e9), now = begun;
    for (int i = 0; i < concurrent; i++)
        if (start(target, (uint32_t)i, seed++))
            fail("connect");
    while ((now = now_ns()) < end) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, 10);
        for (int i = 0; i < ready; i++) {
            struct slot *slot = &slots[events[i].data.u32];
            int over = 0; /* 1: well, -1: not */
            if (!slot->asked && events[i].events & EPOLLOUT) {
                slot->asked = 1;
                question_in(asking, slot->seed, request, reply);
                /* A new connection's buffer takes it whole. */
                if (send(slot->fd, asking, request, MSG_NOSIGNAL) != (ssize_t)request)
                    over = -1;
            }
            while (!over && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
                ssize_t got = recv(slot->fd, buffer, sizeof buffer, 0);
                if (got < 0 && errno == EAGAIN)
                    break;
                if (got <= 0) {
                    over = -1;
                    break;
                }
                size_t head = 0;
                if (slot->got < sizeof slot->answer) {
                    head = sizeof slot->answer - slot->got;
                    head = head < (size_t)got ? head : (size_t)got;
                    memcpy((char *)&slot->answer + slot->got, buffer, head);
                }
                corrupt += !matches(buffer + head, (size_t)got - head, slot->seed + 1, slot->got + head);
                slot->got += (uint32_t)got;
                if (slot->got >= reply) {
                    corrupt += slot->answer.magic != MAGIC || slot->answer.corrupt || slot->got > reply;
                    over = 1;
                } else if ((size_t)got < sizeof buffer)
                    break; /* all that there was; what comes later is a new edge */
            }
            if (!over)
                continue;
            if (over > 0) {
                done++;
                sample(now_ns() - slot->begun);
            } else
                failed++;
            close(slot->fd);
            if (start(target, events[i].data.u32, seed++)) {
                failed++;
                fail("connect");
            }
        }
    }
    double took = (double)(now - begun) / 1e9;
    for (int i = 0; i < concurrent; i++)
        connect_reset(slots[i].fd);
    if (samples)
        qsort(samples, sampled, sizeof *samples, by_size);
    printf("{\"done\": %llu, \"failed\": %llu, \"corrupt\": %llu, \"per_s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f}\n",
           (unsigned long long)done, (unsigned long long)failed, (unsigned long long)corrupt, (double)done / took,
           at_us(0.5), at_us(0.99), at_us(1));
    return 0;
}

/* Ask once on an open connection. Returns which server answered, -1 for none, -2 for wrong bytes. */
static int64_t ask(int fd, uint64_t seed, uint32_t size)
{
    static char buffer[REQUEST_MAX];
    struct answer answer;
    if (question_in(buffer, seed, size, size))
        return -1;
    if (send_all(fd, buffer, size) || receive_all(fd, buffer, size))
        return -1;
    memcpy(&answer, buffer, sizeof answer);
    if (answer.magic != MAGIC || answer.corrupt ||
        !matches(buffer + sizeof answer, size - sizeof answer, seed + 1, sizeof answer))
        return -2;
    return answer.server;
}

int latency(const struct target *target, uint32_t size, double seconds)
{
    int fd = open_socket(target, SOCK_STREAM), corrupt = 0;
    if (size < sizeof(struct question) || size > REQUEST_MAX)
        return sizes_wrong();
    if (connect(fd, (const struct sockaddr *)&target->address, target->length))
        fail("connect");
    uint64_t seed = (uint64_t)now_ns();
    for (int i = 0; i < 200; i++) /* everybody's first times */
        ask(fd, seed++, size);
    int64_t begun = now_ns(), end = begun + (int64_t)(seconds * 1e9), before = begun;
    while (before < end) {
        int64_t who = ask(fd, seed++, size), now = now_ns();
        if (who == -1)
            fail("the connection");
        corrupt += who < 0;
        sample(now - before);
        before = now;
    }
    qsort(samples, sampled, sizeof *samples, by_size);
    printf("{\"asked\": %zu, \"corrupt\": %d, \"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f}\n",
           sampled, corrupt, at_us(0.5), at_us(0.99), at_us(0.999), at_us(1));
    return 0;
}

/* One connection after another; says of each when it began and ended (CLOCK_MONOTONIC), and which server answered. */
int probe(const struct target *target, double seconds, int pause_us)
{
    int64_t end = now_ns() + (int64_t)(seconds * 1e9), begun;
    uint64_t seed = (uint64_t)end;
    struct timeval patience = {10, 0};
    printf("[\"begun_ns\", \"ended_ns\", \"server\"]\n");
    fflush(stdout);
    while ((begun = now_ns()) < end) {
        int fd = open_socket(target, SOCK_STREAM);
        int64_t who = -1;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (!connect(fd, (const struct sockaddr *)&target->address, target->length))
            who = ask(fd, seed++, 64);
        printf("[%lld, %lld, %lld]\n", (long long)begun, (long long)now_ns(), (long long)who);
        close(fd);
        usleep((unsigned)pause_us);
    }
    return 0;
}
