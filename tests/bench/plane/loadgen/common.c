#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static char block[2 * PERIOD];

void prepare_pattern(void)
{
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < PERIOD; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block[i] = block[i + PERIOD] = (char)(state >> 24);
    }
}

const char *pattern(uint64_t seed, uint64_t at)
{
    return block + (seed % PERIOD * 7919 + at) % PERIOD;
}

int matches(const char *bytes, size_t count, uint64_t seed, uint64_t at)
{
    while (count) {
        size_t part = count < PERIOD ? count : PERIOD;
        if (memcmp(bytes, pattern(seed, at), part))
            return 0;
        bytes += part;
        at += part;
        count -= part;
    }
    return 1;
}

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

void parse_target(const char *host, const char *port, struct target *found)
{
    memset(found, 0, sizeof *found);
    struct sockaddr_in *v4 = (struct sockaddr_in *)&found->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&found->address;
    int number = atoi(port);
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)number);
        found->length = sizeof *v4;
    } else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)number);
        found->length = sizeof *v6;
    } else {
        fprintf(stderr, "load: '%s' is no address\n", host);
        exit(2);
    }
}

int open_socket(const struct target *target, int type)
{
    int fd = socket(target->address.ss_family, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if ((type & 0xf) == SOCK_STREAM) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    return fd;
}

void connect_reset(int fd)
{
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

int send_all(int fd, const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count) {
        ssize_t sent = send(fd, at, count, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        at += sent;
        count -= (size_t)sent;
    }
    return 0;
}

int receive_all(int fd, void *bytes, size_t count)
{
    char *at = bytes;
    while (count) {
        ssize_t got = recv(fd, at, count, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        at += got;
        count -= (size_t)got;
    }
    return 0;
}

void raise_file_limit(void)
{
    struct rlimit limit = {65536, 65536};
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0) /* root may raise the hard one */
        return;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int by_size(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}
