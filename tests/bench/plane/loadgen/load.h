/* A load generator: what its client and its server agree on.
 *
 * Every byte is told by its place: byte `at` of stream `seed` is the same on both sides, so whoever reads checks. */
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define MAGIC 0x67617465u
#define PERIOD 131071u /* prime: no buffer size divides it, so bytes at a wrong place differ */
#define CHUNK 131072u  /* of bulk, a write */
#define FLOWS_MAX 64
#define DATAGRAM_MAX 4096

enum kind { ASK = 1, UP = 2, DOWN = 3, COUNT = 4 };

/* What a client says first on a connection, and again for every further ASK. Both ends are one machine. */
struct question {
    uint32_t magic, kind;
    uint64_t seed;
    uint32_t request; /* ASK: bytes of this question in all */
    uint32_t reply;   /* ASK: bytes of the answer in all */
    uint64_t length;  /* DOWN: bytes to send, 0 for as long as somebody reads */
};

struct answer {
    uint32_t magic, server;  /* which server it is */
    uint32_t corrupt, spare; /* whether the server read another byte than it expected */
    uint64_t bytes;          /* UP: so many came */
};

/* What COUNT answers: datagrams of the flows `seed` ... `seed + request - 1`. */
struct counted {
    uint32_t magic, server;
    uint64_t received, repeated, corrupt;
    int64_t first_ns, last_ns;
};

struct datagram {
    uint32_t magic, flow;
    uint64_t sequence;
};

struct target {
    struct sockaddr_storage address;
    socklen_t length;
};

/* common.c */
void prepare_pattern(void);
const char *pattern(uint64_t seed, uint64_t at); /* at least PERIOD bytes may be read there */
int matches(const char *bytes, size_t count, uint64_t seed, uint64_t at);
int64_t now_ns(void);
_Noreturn void fail(const char *what);
void parse_target(const char *host, const char *port, struct target *found);
int open_socket(const struct target *target, int type);
void connect_reset(int fd);                                   /* close by RST */
int send_all(int fd, const void *bytes, size_t count);        /* 0, or -1 */
int receive_all(int fd, void *bytes, size_t count);           /* 0, or -1 */
void raise_file_limit(void);
int by_size(const void *one, const void *other);              /* of uint32_t, for qsort */

/* each returns the exit status */
int serve(const struct target *target, uint32_t name);
int bulk(const struct target *target, int down, int streams, double seconds, uint64_t length);
int rate(const struct target *target, uint32_t request, uint32_t reply, int concurrent, double seconds);
int latency(const struct target *target, uint32_t size, double seconds);
int datagrams(const struct target *target, const struct target *counter, uint32_t size, int flows, double per_second,
              double seconds);
int idle(const struct target *target, int count);
int probe(const struct target *target, double seconds, int pause_us);

#endif
