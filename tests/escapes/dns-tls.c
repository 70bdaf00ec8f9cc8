/* DNS over TLS: another resolver by TCP, on its port. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	set_port(853);
	DO(connect(DO(socket(FAMILY, SOCK_STREAM, 0)), TARGET, target_length));
}
