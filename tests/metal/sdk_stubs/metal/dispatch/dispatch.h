// Not Apple's header: the declarations of libdispatch that the host code uses, for its tests.
#pragma once

#include <stddef.h>

#import <Foundation/Foundation.h>

typedef NSObject* dispatch_queue_t;
typedef NSObject* dispatch_data_t;
typedef void (^dispatch_block_t)(void);

#ifdef __cplusplus
extern "C" {
#endif

void dispatch_sync(dispatch_queue_t queue, dispatch_block_t block);
dispatch_data_t dispatch_data_create(const void* buffer, size_t size, dispatch_queue_t queue,
                                     dispatch_block_t destructor);

#ifdef __cplusplus
}
#endif

// Apple's default destructor, NULL, copies the bytes.
#define DISPATCH_DATA_DESTRUCTOR_DEFAULT NULL
