/* Datagrams with numbers, from some sockets in turn, flat out or so many a second. What came is asked of the server. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH 8
#define SETTLE_MS_MAX 2000
#define BEHIND_MAX 2000 /* datagrams to catch up with at once, when we were kept off the CPU */

static struct counted asked(const struct target *counter, uint32_t base, int flows)
{
    struct question question = {.magic = MAGIC, .kind = COUNT, .seed = base, .request = (uint32_t)flows};
    struct counted found;
    int fd = open_socket(counter, SOCK_STREAM);
    if (connect(fd, (const struct sockaddr *)&counter->address, counter->length) ||
        send_all(fd, &question, sizeof question) || receive_all(fd, &found, sizeof found))
        fail("counting");
    close(fd);
    return found;
}

int datagrams(const struct target *target, const struct target *counter, uint32_t size, int flows, double per_second,
              double seconds)
{
    static char bytes[BATCH][DATAGRAM_MAX];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    int fds[FLOWS_MAX];
    uint64_t sent[FLOWS_MAX] = {0}, total = 0, refused = 0;
    uint32_t base = (uint32_t)now_ns() ^ (uint32_t)getpid() << 8;
    if (size < sizeof(struct datagram) || size > DATAGRAM_MAX || flows < 1 || flows > FLOWS_MAX) {
        fprintf(stderr, "load: a datagram has %zu to %d bytes, and there are 1 to %d flows\n", sizeof(struct datagram),
                DATAGRAM_MAX, FLOWS_MAX);
        return 2;
    }
    for (int i = 0; i < flows; i++) {
        fds[i] = open_socket(target, SOCK_DGRAM);
        if (connect(fds[i], (const struct sockaddr *)&target->address, target->length))
            fail("connect");
    }
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){bytes[i], size};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int64_t begun = now_ns(), end = begun + (int64_t)(seconds * 1e9), now;
    double forgiven = 0;
    for (int turn = 0; (now = now_ns()) < end; turn++) {
        int due = BATCH;
        if (per_second > 0) {
            double behind = (double)(now - begun) / 1e9 * per_second - forgiven - (double)total;
            if (behind > BEHIND_MAX)
                forgiven += behind - BEHIND_MAX;
            if (behind < 1) {
                struct timespec nap = {0, 50000};
                nanosleep(&nap, NULL);
                continue;
            }
            due = behind < BATCH ? (int)behind : BATCH;
        }
        int at = turn % flows;
        for (int i = 0; i < due; i++) {
            struct datagram head = {.magic = MAGIC, .flow = base + (uint32_t)at, .sequence = sent[at] + (uint64_t)i};
            memcpy(bytes[i], &head, sizeof head);
            memcpy(bytes[i] + sizeof head, pattern(head.flow + head.sequence, sizeof head), size - sizeof head);
        }
        int went = sendmmsg(fds[at], messages, (unsigned)due, 0);
        if (went < 0) {
            refused++; /* ECONNREFUSED, ENOBUFS: not one went */
            continue;
        }
        sent[at] += (uint64_t)went;
        total += (uint64_t)went;
    }
    double took = (double)(now_ns() - begun) / 1e9;
    struct counted found = asked(counter, base, flows), before;
    int64_t patience = now_ns() + SETTLE_MS_MAX * 1000000ll;
    do { /* until nothing more comes */
        struct timespec nap = {0, 50000000};
        before = found;
        nanosleep(&nap, NULL);
        found = asked(counter, base, flows);
    } while (found.received != before.received && found.received < total && now_ns() < patience);
    double receiving = (double)(found.last_ns - found.first_ns) / 1e9;
    printf("{\"sent\": %llu, \"sent_per_s\": %.0f, \"received\": %llu, \"received_per_s\": %.0f, \"repeated\": %llu, "
           "\"corrupt\": %llu, \"refused\": %llu, \"lost\": %.6f}\n",
           (unsigned long long)total, (double)total / took, (unsigned long long)found.received,
           receiving > 0 ? (double)found.received / receiving : 0, (unsigned long long)found.repeated,
           (unsigned long long)found.corrupt, (unsigned long long)refused,
           total ? 1 - (double)found.received / (double)total : 0);
    return 0;
}
