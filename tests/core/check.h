/* The check of the test programs: says file, line and condition, and ends. */
#include <stdio.h>
#include <stdlib.h>

#define CHECK(true)                                                    \
    do {                                                               \
        if (!(true)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #true); \
            exit(1);                                                   \
        }                                                              \
    } while (0)
