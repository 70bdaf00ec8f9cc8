/* mDNS (RFC 6762). */
#include "multicast.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	ask(FAMILY == AF_INET6 ? "ff02::fb" : "224.0.0.251", 5353);
}
