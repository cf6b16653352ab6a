/* Idle connections: each has been answered once, then says nothing; when does each notice its end?
 *
 * Prints a line when all are open; then reads lines: "speak" asks once more on each that is left, "report" prints
 * what was noticed since the last report; the end of the input ends all. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SIZE 64
#define AT_ONCE 64
#define OPEN_S 60

static int *fds;
static int count, open_now, reset, finished;
static int64_t first_ns, last_ns;

static void send_question(int fd, uint64_t seed)
{
    char buffer[SIZE];
    struct question question = {.magic = MAGIC, .kind = ASK, .seed = seed, .request = SIZE, .reply = SIZE};
    memcpy(buffer, &question, sizeof question);
    memcpy(buffer + sizeof question, pattern(seed, sizeof question), SIZE - sizeof question);
    send(fd, buffer, SIZE, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int start(const struct target *target, int poller, int at)
{
    int fd = fds[at] = open_socket(target, SOCK_STREAM | SOCK_NONBLOCK);
    if (connect(fd, (const struct sockaddr *)&target->address, target->length) && errno != EINPROGRESS)
        return -1;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = (uint32_t)at};
    return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static int open_all(const struct target *target, int poller)
{
    int started = 0, failed = 0;
    int64_t end = now_ns() + OPEN_S * 1000000000ll;
    while (open_now + failed < count && now_ns() < end) {
        while (started < count && started - open_now - failed < AT_ONCE)
            failed += start(target, poller, started++) != 0;
        struct epoll_event events[AT_ONCE];
        int ready = epoll_wait(poller, events, AT_ONCE, 100);
        for (int i = 0; i < ready; i++) {
            int fd = fds[events[i].data.u32];
            struct epoll_event event = {.events = EPOLLIN, .data.u32 = events[i].data.u32};
            if (events[i].events & EPOLLOUT && !(events[i].events & (EPOLLERR | EPOLLHUP))) {
                send_question(fd, events[i].data.u32);
                epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
                continue;
            }
            char buffer[SIZE];
            ssize_t got = recv(fd, buffer, SIZE, MSG_WAITALL); /* 64 bytes come in one piece */
            event.events = EPOLLIN | EPOLLRDHUP;
            epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
            if (got == SIZE && matches(buffer + sizeof(struct answer), SIZE - sizeof(struct answer),
                                       events[i].data.u32 + 1, sizeof(struct answer)))
                open_now++;
            else {
                failed++;
                epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
            }
        }
    }
    return failed;
}

static void notice(int poller, const struct epoll_event *event)
{
    char buffer[SIZE];
    int fd = fds[event->data.u32];
    ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got > 0 || (got < 0 && errno == EAGAIN))
        return; /* an answer to "speak" */
    last_ns = now_ns();
    if (!first_ns)
        first_ns = last_ns;
    reset += got < 0;
    finished += got == 0;
    open_now--;
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
}

int idle(const struct target *target, int wanted)
{
    int poller = epoll_create1(EPOLL_CLOEXEC);
    raise_file_limit();
    count = wanted;
    fds = calloc((size_t)count + 1, sizeof *fds);
    int64_t begun = now_ns();
    int failed = open_all(target, poller);
    printf("{\"open\": %d, \"failed\": %d, \"seconds\": %.3f}\n", open_now, failed, (double)(now_ns() - begun) / 1e9);
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)count};
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            char line[256];
            if (events[i].data.u32 != (uint32_t)count) {
                notice(poller, &events[i]);
                continue;
            }
            ssize_t got = read(STDIN_FILENO, line, sizeof line - 1);
            if (got <= 0) {
                for (int j = 0; j < count; j++)
                    if (fds[j] > 0)
                        connect_reset(fds[j]);
                return 0;
            }
            line[got] = 0;
            if (!strncmp(line, "speak", 5))
                for (int j = 0; j < count; j++)
                    send_question(fds[j], (uint64_t)j);
            if (!strncmp(line, "report", 6)) {
                printf("{\"open\": %d, \"reset\": %d, \"finished\": %d, \"first_ns\": %lld, \"last_ns\": %lld}\n", open_now,
                       reset, finished, (long long)first_ns, (long long)last_ns);
                fflush(stdout);
                reset = finished = 0;
                first_ns = last_ns = 0;
            }
        }
    }
}
