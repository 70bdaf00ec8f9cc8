/* LLMNR (RFC 4795). */
#include "multicast.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	ask(FAMILY == AF_INET6 ? "ff02::1:3" : "224.0.0.252", 5355);
}
