/* SCTP, one association a socket. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	DO(connect(DO(socket(FAMILY, SOCK_STREAM, IPPROTO_SCTP)), TARGET, target_length));
}
