/* An HTTP server in one static program: the whole of an image made from scratch. */
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
	static const char answer[] = "HTTP/1.0 200 OK\r\nContent-Length: 18\r\n\r\nhello from scratch";
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    listen(listener, 8) != 0)
		return 1;
	for (;;) {
		char request[4096];
		int client = accept(listener, NULL, NULL);

		if (client < 0)
			return 1;
		if (read(client, request, sizeof(request)) > 0 &&
		    write(client, answer, strlen(answer)) < 0)
			return 1;
		close(client);
	}
}
