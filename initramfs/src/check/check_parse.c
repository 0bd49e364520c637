/* The boot spec's formats: what each takes, and what it refuses. */
#include <arpa/inet.h>
#include <string.h>

#include "check.h"
#include "parse.h"

/* A copy of text in memory of just its size, so that a read beyond it is seen. */
static char *copy(const char *text, size_t size)
{
	char *memory = malloc(size + 1);

	CHECK(memory != NULL);
	memcpy(memory, text, size);
	memory[size] = '\0';
	return memory;
}

static void check_strings(void)
{
	char *strings[4];
	char *text = copy("a\0\0b c\0", 7);

	CHECK(parse_strings(text, 7, strings, 4) == 0);
	CHECK(strcmp(strings[0], "a") == 0 && strcmp(strings[1], "") == 0);
	CHECK(strcmp(strings[2], "b c") == 0 && strings[3] == NULL);
	CHECK(parse_strings(text, 7, strings, 3) != 0);
	CHECK(parse_strings(text, 6, strings, 4) != 0);
	CHECK(parse_strings(text, 0, strings, 4) == 0 && strings[0] == NULL);
	free(text);
}

static void check_numbers(void)
{
	uint64_t number = 1;

	CHECK(parse_number("0", 9, &number) == 0 && number == 0);
	CHECK(parse_number("18446744073709551615", UINT64_MAX, &number) == 0 && number == UINT64_MAX);
	CHECK(parse_number("18446744073709551616", UINT64_MAX, &number) != 0);
	CHECK(parse_number("64", 64, &number) == 0 && number == 64);
	CHECK(parse_number("9", 9, &number) == 0);
	CHECK(parse_number("9", 5, &number) != 0);
	static const char *const refused[] = {"", "65", "-1", "+1", " 1", "1 ", "0x1", "1\n"};

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		CHECK(parse_number(refused[i], 64, &number) != 0);
}

static int user(const char *text, struct user *user)
{
	char *memory = copy(text, strlen(text));
	int result = parse_user(memory, user);

	free(memory);
	return result;
}

static void check_users(void)
{
	static struct user got;
	static const char *const refused[] = {
		"", "\n", "0\n", "0 \n", "0  0\n", " 0 0\n", "0 0 \n", "0 x\n",
		"4294967295 0\n", "0 4294967295\n", "0 0 4294967295\n", "0 0\n1\n",
	};
	static char many[8 * GROUPS_MAX + 64] = "0 0";

	CHECK(user("4294967294 7 1 2\n", &got) == 0);
	CHECK(got.uid == 4294967294u && got.gid == 7 && got.group_count == 2);
	CHECK(got.groups[0] == 1 && got.groups[1] == 2);
	CHECK(user("0 0\n", &got) == 0 && got.group_count == 0);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		CHECK(user(refused[i], &got) != 0);
	for (size_t i = 0; i < GROUPS_MAX; i++)
		strcat(many, " 1");
	CHECK(user(many, &got) == 0 && got.group_count == GROUPS_MAX);
	strcat(many, " 1");
	CHECK(user(many, &got) != 0);
}

static void check_root_devices(void)
{
	char good[] = "/dev/pmem0 erofs dax\n";
	char plain[] = "/dev/vda ext4 -\n";
	char by_uuid[] = "UUID=0123abcd-4567-89ef-0123-456789abcdef erofs -\n";
	char on_volume[] = "ISO=HYPER_0123 erofs -\n";
	static const uint8_t uuid[] = {0x01, 0x23, 0xab, 0xcd, 0x45, 0x67, 0x89, 0xef,
				       0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
	static const char *const refused[] = {
		"UUID= erofs -\n", "UUID=0123abcd-4567-89ef-0123-456789abcde erofs -\n",
		"UUID=0123abcd-4567-89ef-0123-456789abcdeg erofs -\n",
		"UUID=0123abcd-4567-89ef-0123456789abcdef-- erofs -\n",
		"UUID=0123ABCD-4567-89ef-0123-456789abcdef erofs -\n", "ISO= erofs -\n", "ISO=X\n",
		"", "/dev/vda\n", "/dev/vda erofs\n", "/dev/vda erofs ro\n",
		"/dev/vda erofs - x\n", "vda erofs -\n", "/dev/vda  -\n",
	};
	struct root_device root;

	CHECK(parse_root_device(good, &root) == 0 && root.dax);
	CHECK(strcmp(root.device, "/dev/pmem0") == 0 && strcmp(root.type, "erofs") == 0);
	CHECK(root.place == AT_PATH && parse_root_device(plain, &root) == 0 && !root.dax);
	CHECK(parse_root_device(by_uuid, &root) == 0 && root.place == BY_UUID);
	CHECK(memcmp(root.uuid, uuid, sizeof(uuid)) == 0 && strcmp(root.type, "erofs") == 0);
	CHECK(parse_root_device(on_volume, &root) == 0 && root.place == ON_VOLUME);
	CHECK(strcmp(root.device, "HYPER_0123") == 0);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		char *memory = copy(refused[i], strlen(refused[i]));

		CHECK(parse_root_device(memory, &root) != 0);
		free(memory);
	}
}

static void check_networks(void)
{
	char good[] = "address 10.0.2.15/24\ngateway 10.0.2.2\n";
	char none[] = "";
	char dhcp[] = "dhcp\n";
	static const char *const refused[] = {
		"dhcp x\n", "dhcp\naddress 10.0.2.15/24\n", "dhcp\nmac 52:54:00:01:02:03\n",
		"address\n", "address 10.0.2.15\n", "address 10.0.2.15/33\n", "address 10.0.2/24\n",
		"gateway 10.0.2.2\n", "address 10.0.2.15/24\ngateway x\n", "route 1.2.3.4\n",
		"address 10.0.2.15/24 \n", "mac 52:54:00:01:02\n", "mac 52:54:00:01:02:0g\n",
		"mac 52:54:00:01:02:0A\n", "mac 52-54-00-01-02-03\n", "mac 52:54:00:01:02:03:04\n",
	};
	char with_mac[] = "mac 52:54:00:0a:9f:ff\n";
	static const uint8_t mac[] = {0x52, 0x54, 0x00, 0x0a, 0x9f, 0xff};
	struct network network;

	CHECK(parse_network(good, &network) == 0 && network.has_address && network.has_gateway);
	CHECK(network.prefix == 24 && network.address == inet_addr("10.0.2.15"));
	CHECK(network.gateway == inet_addr("10.0.2.2"));
	CHECK(!network.has_mac && parse_network(with_mac, &network) == 0 && network.has_mac);
	CHECK(memcmp(network.mac, mac, sizeof(mac)) == 0);
	CHECK(parse_network(none, &network) == 0 && !network.has_address && !network.has_gateway);
	CHECK(!network.is_dhcp && parse_network(dhcp, &network) == 0 && network.is_dhcp);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		char *memory = copy(refused[i], strlen(refused[i]));

		CHECK(parse_network(memory, &network) != 0);
		free(memory);
	}
}

static void check_resolvers(void)
{
	static const char told[] = "#PROTO: DHCP\ndomain lan\nnameserver 10.0.2.3\n"
				   "bootserver 0.0.0.0\nnameserver 10.0.2.4";
	static const char kept[] = "domain lan\nnameserver 10.0.2.3\nnameserver 10.0.2.4";
	char picked[64];

	CHECK(pick_resolvers(told, picked, sizeof(picked)) == strlen(kept));
	CHECK(memcmp(picked, kept, strlen(kept)) == 0);
	CHECK(pick_resolvers(told, picked, 12) == strlen("domain lan\n"));
	CHECK(pick_resolvers("", picked, sizeof(picked)) == 0);
}

static void check_health_times(void)
{
	char good[] = "30000 5000 0 200 3\n";
	static const char *const refused[] = {
		"", "\n", "30000 5000 0 200\n", "30000 5000 0 200 3 4\n", "0 5000 0 200 3\n",
		"30000 0 0 200 3\n", "30000 5000 0 0 3\n", "30000 5000 0 200 0\n",
		"30000 5000 x 200 3\n", "4294967296 1 1 1 1\n", "-1 1 1 1 1\n",
	};
	struct health_times times;

	CHECK(parse_health_times(good, &times) == 0 && times.interval == 30000);
	CHECK(times.timeout == 5000 && times.start_period == 0);
	CHECK(times.start_interval == 200 && times.retries == 3);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		char *memory = copy(refused[i], strlen(refused[i]));

		CHECK(parse_health_times(memory, &times) != 0);
		free(memory);
	}
}

static void check_terminal_sizes(void)
{
	char good[] = "25 90\n";
	static const char *const refused[] = {
		"", "\n", "25\n", "25 \n", "25 90 1\n", "65536 1\n", "1 65536\n", "-1 1\n", " 25 90\n",
	};
	struct terminal_size size;

	CHECK(parse_terminal_size(good, &size) == 0 && size.rows == 25 && size.columns == 90);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		char *memory = copy(refused[i], strlen(refused[i]));

		CHECK(parse_terminal_size(memory, &size) != 0);
		free(memory);
	}
}

static bool is_listened(const char *table)
{
	struct listener found;

	return next_listener(table, &found) != NULL;
}

static void check_listeners(void)
{
	struct listener found;
	const char *rest;

#define HEAD "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n"
#define LINE "   0: 00000000:0050 00000000:0000 "
	CHECK(is_listened(HEAD LINE "0A 00000000:00000000 00:00000000\n"));
	CHECK(is_listened(HEAD LINE "01 00000000\n" LINE "0A 00000000\n"));
	CHECK(!is_listened(HEAD LINE "01 00000000:0000000A 0A \n"));
	CHECK(!is_listened(HEAD LINE "0A"));
	CHECK(!is_listened(HEAD "   0:"));
	CHECK(!is_listened(HEAD));
	CHECK(!is_listened("0A 0A 0A 0A "));
	CHECK(!is_listened(""));
	rest = next_listener(HEAD "   0: 0100007F:1F90 00000000:0000 0A \n" LINE "0A \n", &found);
	CHECK(rest != NULL && found.port == 8080 && found.is_loopback);
	rest = next_listener(rest, &found);
	CHECK(rest != NULL && found.port == 80 && !found.is_loopback);
	CHECK(next_listener(rest, &found) == NULL);
#define IPV6(address) HEAD "   0: " address ":0050 00000000000000000000000000000000:0000 0A \n"
	CHECK(next_listener(IPV6("00000000000000000000000001000000"), &found) && found.is_loopback);
	CHECK(next_listener(IPV6("0000000000000000FFFF00000100007F"), &found) && found.is_loopback);
	CHECK(next_listener(IPV6("00000000000000000000000000000000"), &found) && !found.is_loopback);
	CHECK(next_listener(HEAD "   0: nothing 0 0A \n", &found) && found.port == 0);
}

int main(void)
{
	check_listeners();
	check_strings();
	check_numbers();
	check_users();
	check_root_devices();
	check_networks();
	check_resolvers();
	check_health_times();
	check_terminal_sizes();
	return 0;
}
