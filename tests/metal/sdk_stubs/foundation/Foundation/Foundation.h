// Not Apple's header: the declarations of Foundation that the host code uses, for the check that it
// compiles for arm64-apple-macos. On Linux GNUstep's stand in their place.
#pragma once

#include <stddef.h>

#define nil nullptr

typedef unsigned long NSUInteger;
typedef long NSInteger;
typedef signed char BOOL;

@protocol NSObject
- (instancetype)self;
@end

__attribute__((objc_root_class))
@interface NSObject<NSObject>
+ (instancetype)alloc;
- (instancetype)init;
@end

@interface NSString : NSObject
+ (instancetype)stringWithUTF8String:(const char*)text;
@property(readonly) const char* UTF8String;
@end

@interface NSError : NSObject
@property(readonly) NSString* localizedDescription;
@end
