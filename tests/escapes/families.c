/* Any other family of sockets. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RAW, SOCK_RDM };
	int made = 0;
	for (int family = 0; family < 64; family++) {
		if (family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK)
			continue;
		for (size_t type = 0; type < sizeof types / sizeof *types; type++) {
			int client = socket(family, types[type], 0);
			if (client >= 0) {
				fprintf(stderr, "family %d type %d\n", family, types[type]);
				close(client);
				made++;
			}
		}
	}
	if (!made)
		return 1;
	prove("socket");
}
