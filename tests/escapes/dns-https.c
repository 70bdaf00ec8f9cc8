/* DNS over HTTPS: another resolver by its address. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	set_port(443);
	DO(connect(DO(socket(FAMILY, SOCK_STREAM, 0)), TARGET, target_length));
}
