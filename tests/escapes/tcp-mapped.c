/* connect(2) over an IPv6 socket to an IPv4 address in its mapped form. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	struct sockaddr_in *four = (struct sockaddr_in *)&target;
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = four->sin_port };
	if (FAMILY != AF_INET)
		return 2;
	six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
	memcpy(six.sin6_addr.s6_addr + 12, &four->sin_addr, 4);
	DO(connect(DO(socket(AF_INET6, SOCK_STREAM, 0)), (struct sockaddr *)&six, sizeof six));
}
