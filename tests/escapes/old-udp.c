/* A datagram socket that is there already when its process comes under the gate. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	await_go();
	say(client);
}
