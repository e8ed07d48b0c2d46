// Package errors has the error of an SDK that is not there.
package errors

// TencentCloudSDKError is never returned.
type TencentCloudSDKError struct{}

func (*TencentCloudSDKError) Error() string { return "Tencent Cloud" }
