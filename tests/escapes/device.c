/* A socket that is bound to a device has no loopback: what is sent to us leaves there. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(setsockopt(client, SOL_SOCKET, SO_BINDTODEVICE, "uplink", 6));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
