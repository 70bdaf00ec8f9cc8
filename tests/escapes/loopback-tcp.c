/* A service of the host's on loopback, which has the network that we have not. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int six = FAMILY == AF_INET6;
	address(&target, &target_length, six ? "::1" : "127.0.0.1", atoi(setting(six ? "DEPUTY_TCP6" : "DEPUTY_TCP4")));
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(connect(client, TARGET, target_length));
	say(client);
	char answer;
	DO(read(client, &answer, 1));
}
