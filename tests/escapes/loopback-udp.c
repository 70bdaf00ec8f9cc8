/* The same over UDP. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int six = FAMILY == AF_INET6;
	address(&target, &target_length, six ? "::1" : "127.0.0.1", atoi(setting(six ? "DEPUTY_UDP6" : "DEPUTY_UDP4")));
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
	usleep(200000);
}
