/* DNS over QUIC: another resolver by UDP, on its port. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	set_port(853);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	say(client);
}
