/* load COMMAND ADDRESS PORT [NUMBERS]: see `usage`. One line of JSON says what came of it. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage(void)
{
    fputs("usage: load serve ADDRESS PORT NAME\n"
          "       load up|down ADDRESS PORT STREAMS SECONDS [BYTES]\n"
          "       load rate ADDRESS PORT REQUEST REPLY CONCURRENT SECONDS\n"
          "       load latency ADDRESS PORT SIZE SECONDS\n"
          "       load udp ADDRESS PORT SIZE FLOWS PER_SECOND SECONDS SERVER_ADDRESS SERVER_PORT\n"
          "       load idle ADDRESS PORT COUNT\n"
          "       load probe ADDRESS PORT SECONDS PAUSE_US\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct target target, counter;
    if (argc < 5)
        return usage();
    const char *what = argv[1];
    prepare_pattern();
    raise_file_limit();
    parse_target(argv[2], argv[3], &target);
    if (!strcmp(what, "serve"))
        return serve(&target, (uint32_t)atoi(argv[4]));
    if ((!strcmp(what, "up") || !strcmp(what, "down")) && argc >= 6)
        return bulk(&target, *what == 'd', atoi(argv[4]), atof(argv[5]), argc > 6 ? strtoull(argv[6], NULL, 10) : 0);
    if (!strcmp(what, "rate") && argc == 8)
        return rate(&target, (uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]), atoi(argv[6]), atof(argv[7]));
    if (!strcmp(what, "latency") && argc == 6)
        return latency(&target, (uint32_t)atoi(argv[4]), atof(argv[5]));
    if (!strcmp(what, "udp") && argc == 10) {
        parse_target(argv[8], argv[9], &counter);
        return datagrams(&target, &counter, (uint32_t)atoi(argv[4]), atoi(argv[5]), atof(argv[6]), atof(argv[7]));
    }
    if (!strcmp(what, "idle"))
        return idle(&target, atoi(argv[4]));
    if (!strcmp(what, "probe") && argc == 6)
        return probe(&target, atof(argv[4]), atoi(argv[5]));
    return usage();
}
