/* The server of all loads: one thread, one epoll, TCP and UDP on one port. */
#include "load.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS 256
#define BATCH 64
#define SEQUENCES_MAX (1ull << 26) /* a flow: 8 MB of bits, hours at any rate seen */
#define READ_BYTES (2 * CHUNK)

struct peer {
    struct question question;
    uint64_t got;  /* bytes of this question, its head included */
    uint64_t sent; /* of this answer, or of DOWN */
    struct answer answer;
    int writing, corrupt;
};

struct flow {
    uint32_t number;
    int used;
    uint64_t received, repeated, corrupt, room;
    int64_t first_ns, last_ns;
    uint8_t *seen;
};

static struct peer *peers[65536];
static struct flow flows[FLOWS_MAX];
static unsigned flows_next;
static char buffer[READ_BYTES];
static int poller;
static uint32_t my_name;

static void forget(int fd)
{
    free(peers[fd]);
    peers[fd] = NULL;
    close(fd);
}

static void want(int fd, struct peer *peer, int writing)
{
    if (peer->writing == writing)
        return;
    peer->writing = writing;
    struct epoll_event event = {.events = writing ? EPOLLOUT : EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

/* Send what is due of the answer. Returns -1 when the connection is over. */
static int answer_on(int fd, struct peer *peer)
{
    uint64_t length = peer->question.reply;
    while (peer->sent < length) {
        ssize_t sent;
        if (peer->sent < sizeof peer->answer) {
            /* head and body in one segment, as a server with a buffer would */
            uint64_t rest = length - sizeof peer->answer;
            struct iovec parts[2] = {
                {(char *)&peer->answer + peer->sent, sizeof peer->answer - peer->sent},
                {(char *)pattern(peer->question.seed + 1, sizeof peer->answer), rest < CHUNK / 2 ? rest : CHUNK / 2},
            };
            struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
            sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        } else {
            uint64_t rest = length - peer->sent;
            sent = send(fd, pattern(peer->question.seed + 1, peer->sent), rest < PERIOD ? rest : PERIOD,
                        MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        if (sent < 0) {
            if (errno != EAGAIN)
                return -1;
            want(fd, peer, 1);
            return 0;
        }
        peer->sent += (uint64_t)sent;
    }
    want(fd, peer, 0);
    peer->got = peer->sent = 0; /* ready for the next question */
    return 0;
}

static int begin_answer(int fd, struct peer *peer)
{
    peer->sent = 0;
    peer->answer = (struct answer){.magic = MAGIC, .server = my_name, .corrupt = (uint32_t)peer->corrupt};
    return answer_on(fd, peer);
}

static int send_down(int fd, struct peer *peer)
{
    uint64_t length = peer->question.length;
    for (int turn = 0; turn < 4; turn++) {
        uint64_t rest = length ? length - peer->sent : CHUNK;
        if (!rest) {
            shutdown(fd, SHUT_WR);
            peer->question.kind = 0; /* whatever comes now is the end */
            want(fd, peer, 0);
            return 0;
        }
        ssize_t sent = send(fd, pattern(peer->question.seed, peer->sent), rest < PERIOD ? rest : PERIOD,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno != EAGAIN)
                return -1;
            break;
        }
        peer->sent += (uint64_t)sent;
    }
    want(fd, peer, 1);
    return 0;
}

static int count_for(int fd, const struct peer *peer)
{
    struct counted found = {.magic = MAGIC, .server = my_name};
    for (unsigned i = 0; i < FLOWS_MAX; i++) {
        struct flow *flow = &flows[i];
        if (!flow->used || flow->number - (uint32_t)peer->question.seed >= peer->question.request)
            continue;
        found.received += flow->received;
        found.repeated += flow->repeated;
        found.corrupt += flow->corrupt;
        if (!found.first_ns || flow->first_ns < found.first_ns)
            found.first_ns = flow->first_ns;
        if (flow->last_ns > found.last_ns)
            found.last_ns = flow->last_ns;
    }
    return send_all(fd, &found, sizeof found);
}

/* Take bytes of a question. Returns -1 when the connection is over. */
static int take(int fd, struct peer *peer, const char *bytes, size_t count)
{
    struct question *question = &peer->question;
    while (count) {
        if (peer->got < sizeof *question) {
            size_t part = sizeof *question - peer->got;
            part = part < count ? part : count;
            memcpy((char *)question + peer->got, bytes, part);
            peer->got += part;
            bytes += part;
            count -= part;
            if (peer->got < sizeof *question)
                return 0;
            if (question->magic != MAGIC)
                return -1;
            if (question->kind == ASK && question->reply < sizeof(struct answer))
                return -1;
            if (question->kind == DOWN)
                return send_down(fd, peer);
            if (question->kind == COUNT)
                return count_for(fd, peer);
        }
        if (question->kind == UP) {
            peer->corrupt |= !matches(bytes, count, question->seed, peer->got);
            peer->got += count;
            return 0;
        }
        size_t part = question->request - peer->got;
        part = part < count ? part : count;
        peer->corrupt |= !matches(bytes, part, question->seed, peer->got);
        peer->got += part;
        if (part < count)
            return -1; /* nobody asks before the answer */
        if (peer->got == question->request)
            return begin_answer(fd, peer);
        return 0;
    }
    return 0;
}

static void on_peer(int fd, uint32_t events)
{
    struct peer *peer = peers[fd];
    int over = 0;
    if (peer->writing && !(events & (EPOLLERR | EPOLLHUP))) {
        over = peer->question.kind == DOWN ? send_down(fd, peer) : answer_on(fd, peer);
    } else {
        ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (got > 0)
            over = take(fd, peer, buffer, (size_t)got);
        else if (got < 0)
            over = errno == EAGAIN ? 0 : -1;
        else {
            if (peer->question.kind == UP && peer->got >= sizeof peer->question) {
                struct answer answer = {.magic = MAGIC, .server = my_name, .corrupt = (uint32_t)peer->corrupt};
                answer.bytes = peer->got;
                send_all(fd, &answer, sizeof answer);
            }
            over = -1;
        }
    }
    if (over)
        forget(fd);
}

static void accept_all(int listening)
{
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); /* inherits TCP_NODELAY */
        if (fd < 0)
            return;
        if (fd >= (int)(sizeof peers / sizeof *peers) || !(peers[fd] = calloc(1, sizeof **peers))) {
            close(fd);
            return;
        }
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
            forget(fd);
    }
}

static struct flow *flow_of(uint32_t number)
{
    for (unsigned i = 0; i < FLOWS_MAX; i++)
        if (flows[i].used && flows[i].number == number)
            return &flows[i];
    struct flow *flow = &flows[flows_next++ % FLOWS_MAX]; /* the oldest run's goes */
    free(flow->seen);
    *flow = (struct flow){.number = number, .used = 1, .first_ns = now_ns()};
    return flow;
}

static void note(const char *bytes, size_t count, int64_t at_ns)
{
    struct datagram head;
    if (count < sizeof head)
        return;
    memcpy(&head, bytes, sizeof head);
    if (head.magic != MAGIC || head.sequence >= SEQUENCES_MAX)
        return;
    struct flow *flow = flow_of(head.flow);
    if (head.sequence >= flow->room) {
        uint64_t room = (head.sequence + 1) * 2 + 65536;
        uint8_t *seen = realloc(flow->seen, room / 8 + 1);
        if (!seen)
            fail("memory");
        memset(seen + (flow->room ? flow->room / 8 + 1 : 0), 0, room / 8 + 1 - (flow->room ? flow->room / 8 + 1 : 0));
        flow->seen = seen;
        flow->room = room;
    }
    uint8_t bit = (uint8_t)(1u << (head.sequence & 7)), *byte = &flow->seen[head.sequence >> 3];
    if (*byte & bit) {
        flow->repeated++;
        return;
    }
    *byte |= bit;
    flow->corrupt += !matches(bytes + sizeof head, count - sizeof head, head.flow + head.sequence, sizeof head);
    flow->received++;
    flow->last_ns = at_ns;
}

static void on_datagrams(int fd)
{
    static char room[BATCH][DATAGRAM_MAX];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){room[i], sizeof room[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    int64_t at_ns = now_ns();
    for (int i = 0; i < got; i++)
        note(room[i], messages[i].msg_len, at_ns);
}

int serve(const struct target *target, uint32_t name)
{
    my_name = name;
    poller = epoll_create1(EPOLL_CLOEXEC);
    int on = 1, bytes = 8 << 20;
    int listening = open_socket(target, SOCK_STREAM | SOCK_NONBLOCK);
    int port = open_socket(target, SOCK_DGRAM | SOCK_NONBLOCK);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (setsockopt(port, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes))
        setsockopt(port, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    if (bind(listening, (const struct sockaddr *)&target->address, target->length) || listen(listening, 16384))
        fail("listen");
    struct target where = {.length = sizeof where.address}; /* with the port, if any would do */
    getsockname(listening, (struct sockaddr *)&where.address, &where.length);
    if (bind(port, (const struct sockaddr *)&where.address, where.length))
        fail("bind");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listening};
    epoll_ctl(poller, EPOLL_CTL_ADD, listening, &event);
    event.data.fd = port;
    epoll_ctl(poller, EPOLL_CTL_ADD, port, &event);
    printf("{\"port\": %d}\n", ntohs(((struct sockaddr_in *)&where.address)->sin_port)); /* as in sockaddr_in6 */
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listening)
                accept_all(listening);
            else if (fd == port)
                on_datagrams(port);
            else if (peers[fd])
                on_peer(fd, events[i].events);
        }
    }
}
