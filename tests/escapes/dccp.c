/* DCCP. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DCCP, IPPROTO_DCCP)), code = htonl(42);
	DO(setsockopt(client, 269, 2, &code, sizeof code)); /* DCCP_SOCKOPT_SERVICE */
	DO(connect(client, TARGET, target_length));
}
