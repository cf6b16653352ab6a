/* Bulk: some streams, one way, for a while or for so many bytes each. */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define STREAMS_MAX 1024
#define LAST_S 20 /* for what is under way when the time is over */

struct stream {
    int fd;
    uint64_t seed, moved;
    struct answer answer;
    size_t answered;
    int done;
};

static char buffer[2 * CHUNK];

static int begin(const struct target *target, struct stream *stream, int down, uint64_t length)
{
    stream->fd = open_socket(target, SOCK_STREAM);
    if (connect(stream->fd, (const struct sockaddr *)&target->address, target->length))
        fail("connect");
    struct question question = {.magic = MAGIC, .kind = down ? DOWN : UP, .seed = stream->seed, .length = length};
    if (send_all(stream->fd, &question, sizeof question))
        fail("send");
    if (!down)
        stream->moved = sizeof question;
    return fcntl(stream->fd, F_SETFL, O_NONBLOCK);
}

int bulk(const struct target *target, int down, int streams, double seconds, uint64_t length)
{
    static struct stream all[STREAMS_MAX];
    int poller = epoll_create1(EPOLL_CLOEXEC), open = 0, broken = 0, corrupt = 0;
    if (streams < 1 || streams > STREAMS_MAX) {
        fprintf(stderr, "load: 1 to %d streams\n", STREAMS_MAX);
        return 2;
    }
    uint64_t limit = length ? length : UINT64_MAX, total = 0;
    for (int i = 0; i < streams; i++, open++) {
        all[i].seed = (uint64_t)now_ns() + (uint64_t)i * 101;
        begin(target, &all[i], down, length);
        struct epoll_event event = {.events = down ? EPOLLIN : EPOLLIN | EPOLLOUT, .data.u32 = (uint32_t)i};
        epoll_ctl(poller, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    int64_t begun = now_ns(), end = begun + (int64_t)(seconds * 1e9), last = begun;
    int over = 0; /* the time, so that no more is sent */
    while (open) {
        struct epoll_event events[64];
        int ready = epoll_wait(poller, events, 64, 100);
        int64_t now = now_ns();
        if (!over && now >= end && !length) {
            over = 1;
            if (down)
                break;
            for (int i = 0; i < streams; i++)
                if (!all[i].done)
                    shutdown(all[i].fd, SHUT_WR);
            for (int i = 0; i < streams; i++) {
                struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
                if (!all[i].done)
                    epoll_ctl(poller, EPOLL_CTL_MOD, all[i].fd, &event);
            }
            continue;
        }
        if (now > end + LAST_S * 1000000000ll)
            break;
        for (int i = 0; i < ready; i++) {
            struct stream *stream = &all[events[i].data.u32];
            if (stream->done)
                continue;
            if (down) {
                ssize_t got = recv(stream->fd, buffer, sizeof buffer, 0);
                if (got > 0) {
                    corrupt += !matches(buffer, (size_t)got, stream->seed, stream->moved);
                    stream->moved += (uint64_t)got;
                    continue;
                }
                if (got < 0 && errno == EAGAIN)
                    continue;
                broken += got < 0 || !length || stream->moved != length;
            } else {
                if (events[i].events & EPOLLOUT && !over && stream->moved < limit) {
                    uint64_t rest = limit - stream->moved;
                    ssize_t sent = send(stream->fd, pattern(stream->seed, stream->moved),
                                        rest < PERIOD ? rest : PERIOD, MSG_NOSIGNAL);
                    if (sent > 0)
                        stream->moved += (uint64_t)sent;
                    if (stream->moved >= limit) {
                        struct epoll_event event = {.events = EPOLLIN, .data.u32 = events[i].data.u32};
                        shutdown(stream->fd, SHUT_WR);
                        epoll_ctl(poller, EPOLL_CTL_MOD, stream->fd, &event);
                    }
                    if (sent > 0 || errno == EAGAIN)
                        continue;
                }
                if (!(events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
                    continue;
                ssize_t got = recv(stream->fd, (char *)&stream->answer + stream->answered,
                                   sizeof stream->answer - stream->answered, 0);
                if (got > 0 && (stream->answered += (size_t)got) < sizeof stream->answer)
                    continue;
                if (got < 0 && errno == EAGAIN)
                    continue;
                int whole = stream->answered == sizeof stream->answer && stream->answer.magic == MAGIC;
                broken += !whole || stream->answer.bytes != stream->moved;
                corrupt += whole && stream->answer.corrupt;
            }
            stream->done = 1;
            last = now_ns();
            open--;
            epoll_ctl(poller, EPOLL_CTL_DEL, stream->fd, NULL);
            close(stream->fd);
        }
    }
    if (down && !length)
        last = now_ns(); /* for as long as it was read */
    else
        broken += open;
    for (int i = 0; i < streams; i++) {
        total += all[i].moved;
        if (!all[i].done)
            connect_reset(all[i].fd);
    }
    double took = (double)(last - begun) / 1e9;
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"gbit\": %.4f, \"broken\": %d, \"corrupt\": %d}\n",
           (unsigned long long)total, took, (double)total * 8 / took / 1e9, broken, corrupt);
    return 0;
}
