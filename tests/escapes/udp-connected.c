/* A datagram on a connected socket, which no socket hook sees. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	say(client);
}
